/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers as archives have them. */
#include "number.h"

static bool is_padding(uint8_t byte)
{
	return !byte || byte == ' ';
}

/** Two's complement, big-endian, of which the first bit only says that it is so. */
static bool base256(const uint8_t *field, size_t size, int64_t *ret)
{
	const bool negative = field[0] & 0x40;
	uint64_t value = negative ? ~UINT64_C(0) : 0;

	for (size_t i = 0; i < size; i++) {
		const uint8_t byte = i ? field[i] : (uint8_t)(negative ? field[0] | 0x80 : field[0] & 0x7f);
		const uint64_t top = value >> 55;

		if (top != (negative ? UINT64_C(0x1ff) : 0))
			return false;
		value = value << 8 | byte;
	}
	*ret = (int64_t)value;
	return true;
}

bool obd_number_field(const uint8_t *field, size_t size, int64_t *ret)
{
	size_t start = 0;
	uint64_t value = 0;

	if (size && field[0] & 0x80)
		return base256(field, size, ret);
	while (start < size && is_padding(field[start]))
		start++;
	while (size > start && is_padding(field[size - 1]))
		size--;
	for (; start < size; start++) {
		if (field[start] < '0' || field[start] > '7')
			return false;
		value = value << 3 | (uint64_t)(field[start] - '0'); // 12 digits at most: 36 bits
	}
	*ret = (int64_t)value;
	return true;
}

bool obd_number_decimal(const char *text, size_t length, uint64_t *ret)
{
	uint64_t value = 0;

	for (size_t i = 0; i < length; i++) {
		const unsigned digit = (unsigned)text[i] - '0';

		if (digit > 9 || value > ((uint64_t)INT64_MAX - digit) / 10)
			return false;
		value = value * 10 + digit;
	}
	*ret = value;
	return length > 0;
}

bool obd_number_time(const char *text, size_t length, struct obd_time *ret)
{
	const bool negative = length && text[0] == '-';
	size_t at = negative, point;
	uint64_t seconds = 0;
	uint32_t ns = 0, unit = 100000000;

	for (point = at; point < length && text[point] != '.';)
		point++;
	if (!obd_number_decimal(text + at, point - at, &seconds))
		return false;
	for (at = point + 1; at < length; at++, unit /= 10) {
		if (text[at] < '0' || text[at] > '9')
			return false;
		ns += (uint32_t)(text[at] - '0') * unit;
	}
	ret->s = negative ? -(int64_t)seconds : (int64_t)seconds;
	ret->ns = ns;
	if (negative && ns) {
		ret->s--;
		ret->ns = 1000000000 - ns;
	}
	ret->set = true;
	return true;
}
