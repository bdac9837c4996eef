// What every launcher returns: a code and, unless it is kOk, a message that lives for the whole program.
#pragma once

namespace yk {

enum Code { kOk = 0, kBadArgument = 1, kCudaError = 2, kOutOfMemory = 3 };

struct Status {
    Code code;
    const char* message;
};

inline Status ok() { return {kOk, ""}; }
inline Status bad_argument(const char* message) { return {kBadArgument, message}; }

}  // namespace yk
