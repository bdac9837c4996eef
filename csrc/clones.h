// Loops compiled twice, with and without AVX2, of which the module takes one when it is loaded. Both give the same bits.
#pragma once

#if defined(__x86_64__) && defined(__gnu_linux__)
#define YK_AVX2 __attribute__((target("avx2")))
#endif
#if defined(YK_AVX2) && !defined(__SANITIZE_THREAD__)                // which does not run yet when the choice is made
#define YK_CLONES __attribute__((target_clones("avx2", "default")))  // chosen when the module is loaded
#else
#define YK_CLONES
#endif
#if defined(__GNUC__)
#define YK_INLINE inline __attribute__((always_inline))  // into each clone
#else
#define YK_INLINE inline
#endif
