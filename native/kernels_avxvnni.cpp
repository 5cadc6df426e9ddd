// The AVX2 kernels with the byte dot products of Alder Lake, Zen 5 and newer.
#define LLAMAHERD_AVXVNNI
#include "kernels_avx2.cpp"
