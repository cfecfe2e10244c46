/* What the device says of itself. */
#pragma once

#include "context.h"

int info_get(const struct client *client, const struct get_info *argument);
int info_array(struct get_array *argument);
