/* SPDX-License-Identifier: Apache-2.0 */
#include "answer.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/** Part of a head. */
struct text {
	const char *at;
	size_t length;
};

/** Which headers a head has had so far, of those that matter. */
struct said {
	bool range, length, etag, digest, encoding;
};

size_t obd_answer_head(const char *bytes, size_t count)
{
	const char *end = bytes + count, *line = bytes;

	while ((line = memchr(line, '\n', (size_t)(end - line)))) {
		line++;
		if (end - line >= 1 && line[0] == '\n')
			return (size_t)(line + 1 - bytes);
		if (end - line >= 2 && line[0] == '\r' && line[1] == '\n')
			return (size_t)(line + 2 - bytes);
	}
	return 0;
}

static bool is(struct text text, const char *word)
{
	return text.length == strlen(word) && !memcmp(text.at, word, text.length);
}

/** The same in any case; word is in lower case. */
static bool is_word(struct text text, const char *word)
{
	if (text.length != strlen(word))
		return false;
	for (size_t i = 0; i < text.length; i++) {
		// Not tolower(), which is a matter of the locale.
		const char one = text.at[i];

		if ((one >= 'A' && one <= 'Z' ? one + 'a' - 'A' : one) != word[i])
			return false;
	}
	return true;
}

/** The next line without its end; false: there is none that ends as it should, or it has what no line may have. */
static bool next_line(struct text *rest, struct text *line)
{
	const char *end = memchr(rest->at, '\r', rest->length);

	if (!end || (size_t)(end - rest->at) + 2 > rest->length || end[1] != '\n')
		return false;
	*line = (struct text){rest->at, (size_t)(end - rest->at)};
	rest->at += line->length + 2;
	rest->length -= line->length + 2;
	for (size_t i = 0; i < line->length; i++)
		if ((unsigned char)line->at[i] < ' ' && line->at[i] != '\t')
			return false;
	return true;
}

static bool is_blank(char one)
{
	return one == ' ' || one == '\t';
}

/** Takes a line apart; the value without the blanks around it. */
static bool split(struct text line, struct text *name, struct text *value)
{
	const char *colon = memchr(line.at, ':', line.length);

	if (!colon || colon == line.at)
		return false;
	*name = (struct text){line.at, (size_t)(colon - line.at)};
	for (size_t i = 0; i < name->length; i++)
		if (name->at[i] < '!' || name->at[i] > '~')
			return false; // it goes on with the line before, or Python takes it for the head's end
	*value = (struct text){colon + 1, line.length - name->length - 1};
	for (; value->length && is_blank(value->at[0]); value->at++)
		value->length--;
	while (value->length && is_blank(value->at[value->length - 1]))
		value->length--;
	return true;
}

/** Whether it is the first of its kind: of several, Python takes some as a list, some for a contradiction. */
static bool is_first(bool *said)
{
	const bool again = *said;

	*said = true;
	return !again;
}

/** One header. Those that are not named here do not matter to who asked for a range. */
static bool judge(struct text name, struct text value, const struct obd_ask *ask, uint64_t offset, uint64_t count,
		  struct said *said)
{
	char wanted[96];

	if (is_word(name, "content-range")) {
		snprintf(wanted, sizeof(wanted), "bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64, offset, offset + count - 1,
			 ask->blob_size);
		return is_first(&said->range) && is(value, wanted);
	}
	if (is_word(name, "content-length")) {
		snprintf(wanted, sizeof(wanted), "%" PRIu64, count);
		return is_first(&said->length) && is(value, wanted);
	}
	if (is_word(name, "etag")) // a weak one says nothing
		return is_first(&said->etag) &&
		       ((value.length >= 2 && !memcmp(value.at, "W/", 2)) || (ask->etag[0] && is(value, ask->etag)));
	if (is_word(name, "docker-content-digest"))
		return is_first(&said->digest) && is(value, ask->digest);
	if (is_word(name, "content-encoding"))
		return is_first(&said->encoding) && is_word(value, "identity");
	if (is_word(name, "connection"))
		return is_word(value, "keep-alive");
	return !is_word(name, "transfer-encoding");
}

bool obd_answer_is_range(const char *head, size_t length, const struct obd_ask *ask, uint64_t offset, uint64_t count)
{
	static const char status[] = "HTTP/1.1 206";
	struct text rest = {head, length}, line, name, value;
	struct said said = {.range = false};

	if (!next_line(&rest, &line) || line.length < sizeof(status) - 1 ||
	    memcmp(line.at, status, sizeof(status) - 1) ||
	    (line.length >= sizeof(status) && line.at[sizeof(status) - 1] != ' '))
		return false;
	while (next_line(&rest, &line)) {
		if (!line.length)
			return !rest.length && said.range && said.length;
		if (!split(line, &name, &value) || !judge(name, value, ask, offset, count, &said))
			return false;
	}
	return false;
}
