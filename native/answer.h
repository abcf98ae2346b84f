/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_ANSWER_H
#define OBD_ANSWER_H
#include <stdbool.h>
#include <stddef.h>

#include "obd.h"

/**
 * Bytes of the head at the beginning of what came of an answer, its empty line included; 0: its end is not among them.
 * Lines may end without "\r", as clients have always taken it.
 */
size_t obd_answer_head(const char *bytes, size_t count);

/**
 * Whether a head says, beyond doubt, that exactly the range follows that was asked for, of the same object, and that
 * the connection serves on. false is no verdict: Python looks at it then (registry/answers.py), and says what it means.
 */
bool obd_answer_is_range(const char *head, size_t length, const struct obd_ask *ask, uint64_t offset, uint64_t count);

#endif
