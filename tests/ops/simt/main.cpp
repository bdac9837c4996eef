// Runs operators of csrc/ on the host, those for CUDA too: reads cases from a file, writes their results to another.
#include "cases.h"

int main(int count, char** arguments) {
    using namespace cases;
    if (count != 3 || !(input = std::fopen(arguments[1], "rb")) || !(output = std::fopen(arguments[2], "wb"))) return 2;
    for (std::int64_t number; std::fread(&number, sizeof number, 1, input) == 1;) {
        if (!operations[number & 3]) return 7;
        operations[number & 3]();
    }
    return std::fclose(output) ? 5 : 0;
}
