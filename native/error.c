/* SPDX-License-Identifier: Apache-2.0 */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>

int obd_fail(struct obd_error *err, int code, const char *format, ...)
{
	va_list arguments;

	if (err) {
		err->code = code;
		va_start(arguments, format);
		vsnprintf(err->text, sizeof(err->text), format, arguments);
		va_end(arguments);
	}
	return -code;
}
