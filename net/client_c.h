/* net/client.h for C and for whatever calls C. Installed as <offramp/client_c.h>.
 *
 * Functions return OFFRAMP_OK or an error code, and then offramp_last_error() says in one line what
 * was wanted and what was found. Structs begin with their size, as the caller was compiled with it;
 * a later version appends members and no more. Any number of threads may use one client. */
#ifndef OFFRAMP_CLIENT_C_H
#define OFFRAMP_CLIENT_C_H

/* NOLINTBEGIN: C has no using, no nullptr and no headers that begin with a c. */
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define OFFRAMP_C_API __attribute__((visibility("default")))

enum {
  OFFRAMP_OK = 0,
  OFFRAMP_TIMEOUT = 1, /* of a wait: not known yet */
  OFFRAMP_USAGE = 64,
  OFFRAMP_BAD_DATA = 65,
  OFFRAMP_MISSING_INPUT = 66,
  OFFRAMP_UNAVAILABLE = 69,
  OFFRAMP_SYSTEM = 71,
  OFFRAMP_BUSY = 75, /* as many pictures are under way as `queue` allows */
  OFFRAMP_BAD_MODEL = 78
};

enum { OFFRAMP_MAX_HOPS = 9 };

typedef struct offramp_client offramp_client;

/* What is 0 or NULL is net/client.h's default. */
typedef struct offramp_options {
  size_t size;       /* sizeof(offramp_options) */
  const char* model; /* a .safetensors file */
  const char* next;  /* "HOST:PORT", "ipc:///PATH"; NULL: no next tier */
  const char* keys;  /* folder with self.key and next.pub */
  const char* dtype; /* "f32", "f16", "u8", "u8c" */
  int lz4;
  int insecure;               /* TCP without keys */
  uint32_t deadline_ms;       /* 1000 */
  uint32_t connect_grace_ms;  /* 500 */
  int window, queue, threads; /* 8, 64, 1 */
  const float* thresholds;    /* NULL: the model's */
  size_t threshold_count;
  const char* target; /* NULL: thresholds, or the model's own */
  double audit;       /* 0: none */
} offramp_options;

typedef struct offramp_hop {
  const char* tier; /* "device", "edge", "cloud" */
  uint32_t queue_us, compute_us, wait_us, sent_bytes;
} offramp_hop;

/* The strings live as long as the client. */
typedef struct offramp_result {
  size_t size; /* sizeof(offramp_result), set by the caller */
  uint64_t ticket;
  int error; /* OFFRAMP_OK, or why there is no result; then the rest is 0 */
  int label;
  const char* class_name;
  float probability;
  float entropy; /* normalised, in [0, 1] */
  int exit;
  const char* exit_name;
  const char* tier;   /* that answered */
  const char* status; /* "ok", or why it is not the whole cascade's answer */
  int degraded;       /* status is not "ok" */
  uint64_t sent_bytes, wire_us, total_us;
  size_t hop_count;
  offramp_hop hops[OFFRAMP_MAX_HOPS];
} offramp_result;

/* From the client's thread, which waits for it: may submit, must not wait. `result` is valid until
 * it returns. */
typedef void (*offramp_callback)(const offramp_result* result, void* user);

OFFRAMP_C_API const char* offramp_version(void); /* "0.1.0" */
/* Of this thread's last call that failed; "" before one has. */
OFFRAMP_C_API const char* offramp_last_error(void);

OFFRAMP_C_API int offramp_open(const offramp_options* options, offramp_client** client);
/* Waits for the pictures under way, a deadline at most. No other call may be going on. */
OFFRAMP_C_API void offramp_close(offramp_client* client);

/* `file`: the bytes of a JPEG, PNG or BMP. `rgb`: [height][width][3]. */
OFFRAMP_C_API int offramp_classify(offramp_client* client, const void* file, size_t bytes,
                                   offramp_result* result);
OFFRAMP_C_API int offramp_classify_pixels(offramp_client* client, const uint8_t* rgb, int width,
                                          int height, offramp_result* result);

/* Return at once. The outcome goes to `callback` or, where that is NULL, to a wait. `ticket` may be
 * NULL. */
OFFRAMP_C_API int offramp_submit(offramp_client* client, const void* file, size_t bytes,
                                 offramp_callback callback, void* user, uint64_t* ticket);
OFFRAMP_C_API int offramp_submit_pixels(offramp_client* client, const uint8_t* rgb, int width,
                                        int height, offramp_callback callback, void* user,
                                        uint64_t* ticket);
/* OFFRAMP_OK also for a picture that failed: result->error says so. 0 ms: ask and do not wait. */
OFFRAMP_C_API int offramp_wait(offramp_client* client, uint64_t ticket, uint32_t patience_ms,
                               offramp_result* result);
OFFRAMP_C_API int offramp_wait_any(offramp_client* client, uint32_t patience_ms,
                                   offramp_result* result);

#ifdef __cplusplus
}
#endif
/* NOLINTEND */
#endif
