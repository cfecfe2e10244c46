/* Open files of the device node and their ioctls. */
#pragma once

#include "context.h"

struct client *client_find(int descriptor);
struct client *client_open(int descriptor);
void client_close(int descriptor);
int driver_ioctl(struct client *client, unsigned long request, void *argument);
