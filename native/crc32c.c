/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw CRC-32C, plain and fast.
 *
 * The fast version runs three registers side by side, because the CPU starts a CRC instruction every cycle but needs
 * three to finish one:
 *
 *     data   |  words  |  words  |  words  | rest
 *     reg       a: seed   b: 0      c: 0
 *
 * a has to be moved over two stripes of words and b over one: a multiplication by x^(64 words) modulo the polynomial.
 * Without carries, two reflected 32-bit numbers multiply to their product times x, and the CRC instruction that takes
 * the stripe's last word multiplies what is mixed into that word by x^32: so shift[n] is x^(64 n - 33), and joining
 * costs two multiplications whatever the stripe's length is. Stripes therefore adapt to the buffer, and 1 KiB is as
 * fast as 64.
 *
 * The wide version, for CPUs with AVX-512, moves whole vectors with the same table: 16 bytes are two words, the first
 * of which stands one word further from the end. To add them to what lies d words ahead, multiply the first by
 * shift[d + 1] and the second by shift[d]. Four vectors of 64 bytes are under way at a time, and the one that is left
of ^ * them is a message with the same CRC. On a Xeon of 2023 that is three times as fast at 2 KiB and four times at 16.
 */
#include "crc32c.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "obd_test.h"

enum {
	WORDS_MAX = 256, /**< words a stripe, at most: the table of shifts is then 2 KiB */
	THREE_MIN = 96,	 /**< bytes from which three registers are faster than one */
	WIDE_MIN = 384,	 /**< bytes from which vectors are faster than three registers */
};

static uint32_t byte_table[256];
static uint32_t shift[2 * WORDS_MAX + 1];

uint32_t obd_crc32c_plain(const void *data, size_t count, uint32_t seed)
{
	const uint8_t *bytes = data;

	for (size_t i = 0; i < count; i++)
		seed = seed >> 8 ^ byte_table[(seed ^ bytes[i]) & 0xFF];
	return seed;
}

static int plain_runs(void)
{
	return 1;
}

#if defined(__x86_64__)
#include <immintrin.h>

#define FAST __attribute__((target("sse4.2,pclmul")))
#define FAST_NAME "sse42"

static int fast_runs(void)
{
	return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
}

FAST static inline uint64_t crc_word(uint64_t crc, uint64_t word)
{
	return _mm_crc32_u64(crc, word);
}

FAST static inline uint64_t crc_byte(uint64_t crc, uint8_t byte)
{
	return _mm_crc32_u8((uint32_t)crc, byte);
}

FAST static inline uint64_t multiply(uint64_t a, uint32_t b)
{
	return (uint64_t)_mm_cvtsi128_si64(
		_mm_clmulepi64_si128(_mm_cvtsi64_si128((int64_t)a), _mm_cvtsi64_si128((int64_t)b), 0));
}

#elif defined(__aarch64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#include <arm_neon.h>
#include <sys/auxv.h>

// arm_acle.h of older clang hides these unless the whole file is compiled for such a CPU.
#ifdef __clang__
#define FAST __attribute__((target("crc,aes")))
#define CRC_WORD __builtin_arm_crc32cd
#define CRC_BYTE __builtin_arm_crc32cb
#else
#define FAST __attribute__((target("+crc+crypto")))
#define CRC_WORD __builtin_aarch64_crc32cx
#define CRC_BYTE __builtin_aarch64_crc32cb
#endif
#define FAST_NAME "arm"

static int fast_runs(void)
{
	const unsigned long pmull = 1UL << 4, crc32 = 1UL << 7; // HWCAP_PMULL, HWCAP_CRC32

	return (getauxval(AT_HWCAP) & (pmull | crc32)) == (pmull | crc32);
}

FAST static inline uint64_t crc_word(uint64_t crc, uint64_t word)
{
	return CRC_WORD((uint32_t)crc, word);
}

FAST static inline uint64_t crc_byte(uint64_t crc, uint8_t byte)
{
	return CRC_BYTE((uint32_t)crc, byte);
}

FAST static inline uint64_t multiply(uint64_t a, uint32_t b)
{
	return vgetq_lane_u64(vreinterpretq_u64_p128(vmull_p64((poly64_t)a, (poly64_t)b)), 0);
}
#endif

#if defined(FAST)
static inline uint64_t load(const uint8_t *from)
{
	uint64_t word;

	memcpy(&word, from, sizeof(word));
	return word;
}

FAST static uint32_t crc_fast(const void *data, size_t count, uint32_t seed)
{
	const uint8_t *at = data;
	uint64_t crc = seed;

	while (count >= THREE_MIN) {
		const size_t words = count / 24 < WORDS_MAX ? count / 24 : WORDS_MAX;
		const size_t last = (words - 1) * 8;
		const uint8_t *second = at + words * 8, *third = second + words * 8;
		uint64_t b = 0, c = 0;

		for (size_t i = 0; i < last; i += 8) {
			crc = crc_word(crc, load(at + i));
			b = crc_word(b, load(second + i));
			c = crc_word(c, load(third + i));
		}
		crc = crc_word(crc, load(at + last));
		b = crc_word(b, load(second + last));
		crc = crc_word(c, load(third + last) ^ multiply(crc, shift[2 * words]) ^ multiply(b, shift[words]));
		at = third + words * 8;
		count -= words * 24;
	}
	for (; count >= 8; count -= 8, at += 8)
		crc = crc_word(crc, load(at));
	for (; count; count--)
		crc = crc_byte(crc, *at++);
	return (uint32_t)crc;
}
#endif

#if defined(__x86_64__)
#define WIDE __attribute__((target("sse4.2,pclmul,avx512f,vpclmulqdq")))

static int wide_runs(void)
{
	return fast_runs() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq");
}

/* Factors that move each 16 bytes of a vector words ahead. */
WIDE static inline __m512i distance(unsigned words)
{
	return _mm512_broadcast_i32x4(_mm_set_epi64x(shift[words], shift[words + 1]));
}

WIDE static inline __m512i move(__m512i from, __m512i factors, __m512i to)
{
	const __m512i first = _mm512_clmulepi64_epi128(from, factors, 0x00);
	const __m512i second = _mm512_clmulepi64_epi128(from, factors, 0x11);

	return _mm512_ternarylogic_epi64(first, second, to, 0x96); // all three, added
}

WIDE static inline __m512i load_wide(const uint8_t *from)
{
	return _mm512_loadu_si512(from);
}

WIDE static uint32_t crc_wide(const void *data, size_t count, uint32_t seed)
{
	const uint8_t *at = data, *end = at + count;
	__m512i a, b, c, d, factors;
	uint64_t words[8], crc;

	if (count < WIDE_MIN)
		return crc_fast(data, count, seed);
	a = _mm512_xor_si512(load_wide(at), _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)seed)));
	b = load_wide(at + 64);
	c = load_wide(at + 128);
	d = load_wide(at + 192);
	factors = distance(32);
	for (at += 256; end - at >= 256; at += 256) {
		a = move(a, factors, load_wide(at));
		b = move(b, factors, load_wide(at + 64));
		c = move(c, factors, load_wide(at + 128));
		d = move(d, factors, load_wide(at + 192));
	}
	factors = distance(8);
	d = move(move(move(a, factors, b), factors, c), factors, d);
	for (; end - at >= 64; at += 64)
		d = move(d, factors, load_wide(at));
	_mm512_storeu_si512(words, d);
	crc = 0;
	for (unsigned i = 0; i < 8; i++)
		crc = crc_word(crc, words[i]);
	return crc_fast(at, (size_t)(end - at), (uint32_t)crc);
}
#endif

static const struct version {
	const char *name;
	uint32_t (*function)(const void *data, size_t count, uint32_t seed);
	int (*runs)(void);
} versions[] = {
	{"plain", obd_crc32c_plain, plain_runs},
#ifdef FAST
	{FAST_NAME, crc_fast, fast_runs},
#endif
#if defined(__x86_64__)
	{"avx512", crc_wide, wide_runs},
#endif
};

enum { VERSIONS = sizeof(versions) / sizeof(versions[0]) };

/* Written once, when the library is loaded. */
static const struct version *chosen = &versions[0];

static const struct version *choose(void)
{
	const char *demanded = getenv("OVERLAYBD_CRC32C");

	for (size_t i = VERSIONS; i-- > 0;)
		if ((!demanded || !strcmp(demanded, versions[i].name)) && versions[i].runs())
			return &versions[i];
	// Going on with another version than the one demanded would make whatever is measured or tested a lie.
	fprintf(stderr, "libobd: OVERLAYBD_CRC32C demands '%s', which this build or CPU does not have\n", demanded);
	abort();
}

__attribute__((constructor)) static void crc32c_init(void)
{
	static const uint8_t zeros[8];

	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;

		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
		byte_table[i] = crc;
	}
	shift[1] = 1; // x^31: bit 0 is the highest power
	for (size_t n = 2; n <= 2 * WORDS_MAX; n++)
		shift[n] = obd_crc32c_plain(zeros, sizeof(zeros), shift[n - 1]);
	chosen = choose();
}

uint32_t obd_crc32c(const void *data, size_t count, uint32_t seed)
{
	return chosen->function(data, count, seed);
}

const char *obd_crc32c_version(void)
{
	return chosen->name;
}

int obd_test_crc32c(unsigned version, const void *data, size_t count, uint32_t seed, uint32_t *ret)
{
	if (version >= VERSIONS)
		return -ENOENT;
	if (!versions[version].runs())
		return -ENOTSUP;
	*ret = versions[version].function(data, count, seed);
	return 0;
}
