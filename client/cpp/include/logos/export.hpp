#pragma once

#if defined(__GNUC__)
#define LOGOS_CLIENT_API __attribute__((visibility("default")))
#else
#define LOGOS_CLIENT_API
#endif
