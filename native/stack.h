/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_STACK_H
#define OBD_STACK_H
#include "upper.h"

/*
 * What the layers of an image show together, segment by segment in the order of the disk: what the merged index would
 * have, without the memory for it. For one thread at a time.
 */
struct obd_stack;
enum { OBD_STACK_LAYERS = 256 };

/**
 * layers: the lowest first; the last one may be a writable one's, then it is &upper->layer. They stay the caller's, and
 * are there for longer than the stack.
 */
int obd_stack_create(struct obd_layer *const *layers, unsigned count, struct obd_upper *upper, struct obd_task *task,
		     struct obd_stack **ret, struct obd_error *err);
void obd_stack_destroy(struct obd_stack *stack);
/** 1: the next segment, its layer's number in map; 0: there is none; or -errno. */
int obd_stack_next(struct obd_stack *stack, uint64_t *key, uint64_t *map, struct obd_error *err);
/** From the first one again. */
void obd_stack_rewind(struct obd_stack *stack);

#endif
