/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_ERROR_H
#define OBD_ERROR_H
#include "obd.h"

/** Fills err (may be NULL) and returns -code, so that a caller can write return obd_fail(...). */
__attribute__((format(printf, 3, 4))) int obd_fail(struct obd_error *err, int code, const char *format, ...);

#endif
