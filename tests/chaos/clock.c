/* Preloaded, lets the system's clock jump for one process: its own readings of it, and the stamps of its packets (which
   the kernel makes, so that no library for a false time reaches them). The monotonic clock stays. CHAOS_CLOCK names a
   file of 8 bytes: by how many microseconds the clock is off now. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

typedef struct { struct timeval ts; uint32_t caplen, len; } packet_header;
typedef void (*handler)(unsigned char *, const packet_header *, const unsigned char *);
typedef struct { handler call; unsigned char *user; } wrapped;

static volatile int64_t none, *offset = &none;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("CHAOS_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *mapped = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED)
        abort();
    close(file);
    offset = mapped;
}

static struct timeval moved(struct timeval at)
{
    int64_t now = (int64_t)at.tv_sec * 1000000 + at.tv_usec + *offset;
    return (struct timeval){now / 1000000, now % 1000000};
}

int clock_gettime(clockid_t clock, struct timespec *at)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(clock, at);
    if (code == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        at->tv_sec += *offset / 1000000;
    return code;
}

static void pass_on(unsigned char *user, const packet_header *header, const unsigned char *packet)
{
    wrapped *to = (wrapped *)user;
    packet_header changed = *header;
    changed.ts = moved(header->ts);
    to->call(to->user, &changed, packet);
}

int pcap_dispatch(void *handle, int count, handler call, unsigned char *user)
{
    static int (*real)(void *, int, handler, unsigned char *);
    wrapped to = {call, user};
    if (!real)
        real = dlsym(RTLD_NEXT, "pcap_dispatch");
    return real(handle, count, pass_on, (unsigned char *)&to);
}
