// Half-precision numbers without special instructions, for loading and for the reference kernels.
#pragma once

#include <cstdint>
#include <cstring>

namespace llamaherd {

inline float bits_to_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline uint32_t float_to_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float bfloat16_to_float(uint16_t half) { return bits_to_float(uint32_t(half) << 16); }

inline float float16_to_float(uint16_t half) {
    // The exponent moves to its place by a multiplication, which also makes subnormals normal.
    const uint32_t sign = uint32_t(half & 0x8000) << 16;
    const uint32_t rest = uint32_t(half & 0x7fff) << 13;
    if (rest >= 0x0f800000) return bits_to_float(sign | 0x7f800000 | (rest & 0x007fffff));
    return bits_to_float(sign | float_to_bits(bits_to_float(rest) * 0x1p112f));
}

// Rounds to nearest, ties to even.
inline uint16_t float_to_float16(float value) {
    const uint32_t bits = float_to_bits(value);
    const uint16_t sign = (bits >> 16) & 0x8000;
    uint32_t rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return sign | 0x7e00;    // not a number
    if (rest >= 0x47800000) return sign | 0x7c00;   // too large: infinity
    if (rest < 0x38800000) {                        // subnormal: let the adder round
        return sign | uint16_t(float_to_bits(bits_to_float(rest) + 0.5f) - 0x3f000000);
    }
    rest += 0x0fff + ((rest >> 13) & 1);
    return sign | uint16_t((rest - 0x38000000) >> 13);
}

}  // namespace llamaherd
