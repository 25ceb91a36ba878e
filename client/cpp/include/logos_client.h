/* The client of a Messaging API and of its kernel, for C and everything that calls C.
 *
 * - Handles are opaque; each has one function that frees it, which takes NULL too.
 * - A function that can fail returns LOGOS_OK (0) or a code of logos_contract.h, and fills *error, which may be NULL.
 *   No C++ exception leaves this library.
 * - Texts and bytes come and go with explicit lengths. A text that goes in may be NULL with length 0. What comes out of an
 *   event or a reply belongs to it.
 * - Timeouts are milliseconds; < 0: without end for events, 10,000 for requests.
 * - A client may be used from any thread; one thread at a time takes its events. It does not survive a fork.
 * - Bodies of requests and replies are MessagePack, as in ipc_schema/SPEC.md.
 */
#ifndef LOGOS_CLIENT_H
#define LOGOS_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#include "logos_contract.h"

#if defined(__GNUC__)
#define LOGOS_API __attribute__((visibility("default")))
#else
#define LOGOS_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised by a change that breaks callers. A program compares it with logos_abi_version(). */
#define LOGOS_ABI_VERSION 1

LOGOS_API uint32_t logos_abi_version(void);

typedef struct logos_messaging logos_messaging; /* an app's connection to a Messaging API */
typedef struct logos_kernel logos_kernel;       /* a consumer of a kernel */
typedef struct logos_feed logos_feed;           /* events of a kernel */
typedef struct logos_event logos_event;
typedef struct logos_reply logos_reply;

typedef struct logos_error {
  int32_t code;           /* of logos_contract.h */
  int32_t retriable;      /* 1: the same request may succeed later */
  int64_t retry_after_ms; /* when, -1: it does not say */
  char name[32];          /* of the code: "bad_request", … */
  char message[1024];     /* for people; UTF-8, cut at the end if it is longer */
} logos_error;

typedef struct logos_bytes {
  const uint8_t *data;
  size_t size;
} logos_bytes;

/* -- an app ------------------------------------------------------------------------------------------------------- */

/* Set `size` to sizeof(logos_options) and the rest to 0 (logos_options_init does): later versions append fields. */
typedef struct logos_options {
  size_t size;
  const char *name;   /* of a durable app, NULL: it ends with its connection */
  int32_t takeover;   /* 1: end another live connection of that name */
  int32_t manual_ack; /* 1: only logos_messaging_ack acknowledges; 0: asking for the next event does too */
  uint64_t credit;    /* bytes of events that may be queued here or be on their way, 0: the default */
  int64_t timeout_ms; /* to wait for the server; 0: the default */
} logos_options;

LOGOS_API void logos_options_init(logos_options *options);

/* `where`: "ipc://…", "tcp://…", or a node's run directory. `options` may be NULL. */
LOGOS_API int32_t logos_messaging_connect(const char *where, const logos_options *options, logos_messaging **client,
                                          logos_error *error);
/* Acknowledge what was handled, say goodbye, free. `handled`: 1 if the last event given out was handled too. */
LOGOS_API void logos_messaging_close(logos_messaging *client, int32_t handled);
LOGOS_API int32_t logos_messaging_connected(const logos_messaging *client);

/* On LOGOS_OK *refused is a reply whose body is the map topic → why it was refused. `refused` may be NULL: then a topic
 * that is refused is LOGOS_BAD_REQUEST. */
LOGOS_API int32_t logos_messaging_subscribe(logos_messaging *client, const char *const *topics, size_t count,
                                            int64_t timeout_ms, logos_reply **refused, logos_error *error);
LOGOS_API int32_t logos_messaging_unsubscribe(logos_messaging *client, const char *const *topics, size_t count,
                                              int64_t timeout_ms, logos_error *error);

typedef struct logos_send_options {
  size_t size;               /* sizeof(logos_send_options) */
  const uint8_t *request_id; /* 16 bytes, the idempotency key; NULL: a new one */
  logos_bytes meta;          /* at most 64 bytes */
  int32_t ephemeral;
  int64_t timeout_ms; /* 0: the default */
} logos_send_options;

/* Hand a message over. `request_id` gets the 16 bytes of its id, and may be NULL; its outcome follows as events. */
LOGOS_API int32_t logos_messaging_send(logos_messaging *client, const char *topic, const uint8_t *payload, size_t size,
                                       const logos_send_options *options, uint8_t *request_id, logos_error *error);
/* The same without waiting: `done` is called once, on the client's thread; `error` is NULL if it was accepted. It must
 * not block. Not called if this returns an error. */
typedef void (*logos_sent)(void *user, const uint8_t *request_id, const logos_error *error);
LOGOS_API int32_t logos_messaging_send_async(logos_messaging *client, const char *topic, const uint8_t *payload,
                                             size_t size, const logos_send_options *options, logos_sent done,
                                             void *user, logos_error *error);

/* Everything up to (stream, seq) is handled. With `stream` NULL: up to the last event handled. */
LOGOS_API int32_t logos_messaging_ack(logos_messaging *client, const uint8_t *stream, uint64_t seq, int64_t timeout_ms,
                                      logos_error *error);
/* *cancelled: 1, or 0: too late, or there is no such send. */
LOGOS_API int32_t logos_messaging_cancel(logos_messaging *client, const uint8_t *request_id, int64_t timeout_ms,
                                         int32_t *cancelled, logos_error *error);
LOGOS_API int32_t logos_messaging_forget(logos_messaging *client, const char *name, int64_t timeout_ms,
                                         logos_error *error);
/* -- reliable channels ---------------------------------------------------------------------------------------------- */

typedef struct logos_channel_options {
  size_t size;           /* sizeof(logos_channel_options) */
  const char *sender_id; /* our name in the channel, NULL: one is made up and kept */
  const char *profile;   /* the form written: "reference" (NULL), "raw" or "js" */
  const uint8_t *keys;   /* key_count keys of 32 bytes each, one after the other; the first encrypts */
  size_t key_count;
  int32_t keep_keys; /* 1: stored, so that the channel opens by itself after a restart */
  int32_t hooks;     /* 1: instead of keys, the functions of logos_messaging_set_channel_encryption encrypt */
  double parity;     /* parity segments per data segment, 0 to 1 */
  int64_t timeout_ms; /* 0: the default */
} logos_channel_options;

/* Create a channel, or open one that was closed or is locked. `options` may be NULL. */
LOGOS_API int32_t logos_messaging_create_channel(logos_messaging *client, const char *channel, const char *topic,
                                                 const logos_channel_options *options, logos_error *error);
/* As logos_messaging_send, to the participants of a channel; no meta. */
LOGOS_API int32_t logos_messaging_send_to_channel(logos_messaging *client, const char *channel, const uint8_t *payload,
                                                  size_t size, const logos_send_options *options, uint8_t *request_id,
                                                  logos_error *error);

/* Encrypts or decrypts one segment of a payload: it calls logos_hook_give, or logos_hook_fail, before it returns. */
typedef struct logos_hook_result logos_hook_result;
typedef void (*logos_hook)(void *user, const uint8_t *segment, size_t size, logos_hook_result *result);
/* The bytes are copied. */
LOGOS_API void logos_hook_give(logos_hook_result *result, const uint8_t *data, size_t size);
/* `reason`: for people. It comes with the error of the send, or with the event channel_message_lost. */
LOGOS_API void logos_hook_fail(logos_hook_result *result, const char *reason);

/* Encrypt a channel created with `hooks` by functions of the app: `encrypt` is called on the threads that send to the
 * channel, `decrypt` on the one that takes events, with `user`, which must live until the hooks are cleared and no such
 * call is under way, or the client is closed. Set them before events are taken; whether the channel exists does not
 * matter. */
LOGOS_API int32_t logos_messaging_set_channel_encryption(logos_messaging *client, const char *channel,
                                                         logos_hook encrypt, logos_hook decrypt, void *user,
                                                         logos_error *error);
LOGOS_API int32_t logos_messaging_clear_channel_encryption(logos_messaging *client, const char *channel,
                                                           logos_error *error);

/* -- any request, and events ---------------------------------------------------------------------------------------- */

/* Any method of SPEC.md §4: status, pending, subscriptions, node.info, channel.…; `body`: a packed map, size 0: {}. */
LOGOS_API int32_t logos_messaging_call(logos_messaging *client, const char *method, logos_bytes body,
                                       const logos_bytes *blobs, size_t blob_count, int64_t timeout_ms,
                                       logos_reply **reply, logos_error *error);

/* The next event; asking says that the one before it is handled. *event is NULL: none can come any more. Without one in
 * time: LOGOS_DEADLINE_EXCEEDED; with timeout 0 that means that there is none now. */
LOGOS_API int32_t logos_messaging_next(logos_messaging *client, int64_t timeout_ms, logos_event **event,
                                       logos_error *error);
/* Readable while there is something to take: for poll and event loops. It belongs to the client. -1: an error. */
LOGOS_API int logos_messaging_fd(logos_messaging *client);

/* -- a kernel ----------------------------------------------------------------------------------------------------- */

/* `where`: a node's run directory. `name`: the consumer's, or NULL. */
LOGOS_API int32_t logos_kernel_connect(const char *where, const char *name, int64_t timeout_ms, logos_kernel **client,
                                       logos_error *error);
LOGOS_API void logos_kernel_close(logos_kernel *client);
/* *reply: the body of relay.publish (SPEC.md §3.3). It may be NULL. */
LOGOS_API int32_t logos_kernel_publish(logos_kernel *client, const char *topic, const uint8_t *payload, size_t size,
                                       int64_t timeout_ms, logos_reply **reply, logos_error *error);
/* Any method of SPEC.md §3: store.query, peers.list, node.health, …. */
LOGOS_API int32_t logos_kernel_call(logos_kernel *client, const char *method, logos_bytes body,
                                    const logos_bytes *blobs, size_t blob_count, int64_t timeout_ms,
                                    logos_reply **reply, logos_error *error);
/* Events of shards (leased meanwhile), and of the node's health and peers; gaps are filled by replays. Close it before
 * the client. */
LOGOS_API int32_t logos_kernel_events(logos_kernel *client, const uint32_t *shards, size_t count, int32_t health,
                                      int32_t peers, int64_t timeout_ms, logos_feed **feed, logos_error *error);
LOGOS_API void logos_feed_close(logos_feed *feed);
LOGOS_API int32_t logos_feed_next(logos_feed *feed, int64_t timeout_ms, logos_event **event, logos_error *error);
LOGOS_API int logos_feed_fd(logos_feed *feed);

/* -- events and replies ------------------------------------------------------------------------------------------- */

LOGOS_API void logos_event_free(logos_event *event);
LOGOS_API int32_t logos_event_kind(const logos_event *event);          /* LOGOS_EVENT_… or LOGOS_KERNEL_… */
LOGOS_API const char *logos_event_name(const logos_event *event);      /* "message_received", … */
/* A field by the contract's name: "payload", "content_topic", "request_id", "stream_id", …. 1: it has one of that type. */
LOGOS_API int32_t logos_event_bytes(const logos_event *event, const char *field, logos_bytes *value);
LOGOS_API int32_t logos_event_text(const logos_event *event, const char *field, logos_bytes *value);
LOGOS_API int32_t logos_event_integer(const logos_event *event, const char *field, int64_t *value); /* booleans too */
/* The whole event as a packed map. */
LOGOS_API logos_bytes logos_event_packed(logos_event *event);

LOGOS_API void logos_reply_free(logos_reply *reply);
LOGOS_API logos_bytes logos_reply_body(const logos_reply *reply); /* packed */
LOGOS_API size_t logos_reply_blob_count(const logos_reply *reply);
LOGOS_API logos_bytes logos_reply_blob(const logos_reply *reply, size_t index);

#ifdef __cplusplus
}
#endif

#endif
