/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_EXT4_IO_H
#define OBD_EXT4_IO_H
#include <ext2fs/ext2fs.h>
#include "pages.h"

/** libext2fs's view of pages. They are passed through the name that libext2fs opens. */
extern struct struct_io_manager obd_io_manager;
enum { OBD_IO_NAME = 32 };
void obd_io_name(struct obd_pages *pages, char name[OBD_IO_NAME]);

#endif
