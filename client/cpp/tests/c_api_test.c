/* The C ABI from C99. With an argument (a node's run directory) it also sends, receives and reads a kernel's feed. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "logos_client.h"

#define CHECK(condition)                                                   \
  do {                                                                     \
    if (!(condition)) {                                                    \
      fprintf(stderr, "line %d: %s is not so\n", __LINE__, #condition);    \
      exit(1);                                                             \
    }                                                                      \
  } while (0)

#define TRY(call)                                                                                  \
  do {                                                                                             \
    if ((call) != LOGOS_OK) {                                                                      \
      fprintf(stderr, "line %d: %s: %s: %s\n", __LINE__, #call, error.name, error.message);        \
      exit(1);                                                                                     \
    }                                                                                              \
  } while (0)

static const char *const topic = "/logos-c/1/abi/plain";
static const uint8_t payload[] = {'h', 'e', 'l', 'l', 'o', 0, 0xff};

static void without_a_server(void) {
  logos_messaging *client = NULL;
  logos_kernel *kernel = NULL;
  logos_error error;
  logos_options options;

  CHECK(logos_abi_version() == LOGOS_ABI_VERSION);
  logos_options_init(&options);
  options.timeout_ms = 50;
  CHECK(logos_messaging_connect("/nonexistent/run", &options, &client, &error) == LOGOS_NOT_READY);
  CHECK(client == NULL && error.code == LOGOS_NOT_READY && error.retriable == 1);
  CHECK(strcmp(error.name, "not_ready") == 0 && strlen(error.message) > 0);
  CHECK(logos_messaging_connect("ftp://x", &options, &client, &error) == LOGOS_INVALID_ARGUMENT);
  CHECK(logos_messaging_connect(NULL, &options, &client, NULL) == LOGOS_INVALID_ARGUMENT);
  options.name = "Not A Name";
  CHECK(logos_messaging_connect("/nonexistent/run", &options, &client, &error) == LOGOS_INVALID_ARGUMENT);
  CHECK(logos_kernel_connect("/nonexistent/run", NULL, 50, &kernel, &error) == LOGOS_NOT_READY);
  CHECK(logos_messaging_send(NULL, topic, payload, sizeof payload, NULL, NULL, &error) == LOGOS_INVALID_ARGUMENT);
  logos_messaging_close(NULL, 0);
  logos_kernel_close(NULL);
  logos_event_free(NULL);
  logos_reply_free(NULL);
}

/* A cipher that is one byte; a segment begins with a mark. */
static void seal(void *user, const uint8_t *segment, size_t size, logos_hook_result *result) {
  uint8_t *sealed = malloc(size + 1);
  size_t at;
  sealed[0] = '+';
  for (at = 0; at < size; ++at) sealed[at + 1] = segment[at] ^ *(const uint8_t *)user;
  logos_hook_give(result, sealed, size + 1);
  free(sealed);
}

static void unseal(void *user, const uint8_t *segment, size_t size, logos_hook_result *result) {
  uint8_t *content = malloc(size);
  size_t at;
  for (at = 1; at < size; ++at) content[at - 1] = segment[at] ^ *(const uint8_t *)user;
  if (segment[0] == '+') logos_hook_give(result, content, size - 1);
  free(content);
}

static void refuse(void *user, const uint8_t *segment, size_t size, logos_hook_result *result) {
  (void)user, (void)segment, (void)size;
  logos_hook_fail(result, "no key");
}

/* The next event of a kind, by poll. */
static logos_event *next(logos_messaging *client, int32_t kind) {
  logos_error error;
  struct pollfd readable;
  readable.fd = logos_messaging_fd(client);
  readable.events = POLLIN;
  for (;;) {
    logos_event *event = NULL;
    int32_t code;
    CHECK(poll(&readable, 1, 20000) == 1);
    code = logos_messaging_next(client, 0, &event, &error);
    if (code == LOGOS_DEADLINE_EXCEEDED) continue; /* a segment that is being given back */
    CHECK(code == LOGOS_OK && event != NULL);
    if (logos_event_kind(event) == kind) return event;
    logos_event_free(event);
  }
}

static void with_a_node(const char *run_dir) {
  logos_messaging *client = NULL;
  logos_kernel *kernel = NULL;
  logos_feed *feed = NULL;
  logos_event *event = NULL;
  logos_reply *reply = NULL;
  logos_error error;
  logos_bytes value;
  logos_bytes empty = {NULL, 0};
  uint8_t request_id[16];
  int64_t number = 0;
  uint32_t shard = 0;

  TRY(logos_messaging_connect(run_dir, NULL, &client, &error));
  CHECK(logos_messaging_connected(client) == 1);
  TRY(logos_messaging_subscribe(client, &topic, 1, -1, NULL, &error));
  TRY(logos_kernel_connect(run_dir, NULL, -1, &kernel, &error));
  TRY(logos_kernel_events(kernel, &shard, 1, 1, 0, -1, &feed, &error));
  TRY(logos_messaging_send(client, topic, payload, sizeof payload, NULL, request_id, &error));

  event = next(client, LOGOS_EVENT_MESSAGE_RECEIVED);
  CHECK(strcmp(logos_event_name(event), "message_received") == 0);
  CHECK(logos_event_bytes(event, "payload", &value) == 1 && value.size == sizeof payload);
  CHECK(memcmp(value.data, payload, sizeof payload) == 0);
  CHECK(logos_event_text(event, "content_topic", &value) == 1 && value.size == strlen(topic));
  CHECK(logos_event_integer(event, "seq", &number) == 1 && number >= 1);
  CHECK(logos_event_bytes(event, "no such field", &value) == 0);
  CHECK(logos_event_packed(event).size > sizeof payload);
  logos_event_free(event);

  do {
    TRY(logos_feed_next(feed, 20000, &event, &error));
    number = logos_event_kind(event);
    if (number == LOGOS_KERNEL_MESSAGE) CHECK(logos_event_bytes(event, "payload", &value) == 1);
    logos_event_free(event);
  } while (number != LOGOS_KERNEL_MESSAGE);

  TRY(logos_messaging_call(client, "status", empty, NULL, 0, -1, &reply, &error));
  CHECK(logos_reply_body(reply).size > 1 && logos_reply_blob_count(reply) == 0);
  logos_reply_free(reply);
  CHECK(logos_messaging_call(client, "no.such", empty, NULL, 0, -1, &reply, &error) == LOGOS_UNKNOWN_METHOD);
  TRY(logos_messaging_ack(client, NULL, 0, -1, &error));
  CHECK(logos_messaging_send(client, topic, NULL, 0, NULL, NULL, &error) == LOGOS_BAD_REQUEST);

  logos_feed_close(feed);
  logos_kernel_close(kernel);
  logos_messaging_close(client, 1);
}

static void with_hooks(const char *run_dir) {
  logos_messaging *ann = NULL;
  logos_messaging *ben = NULL;
  logos_event *event = NULL;
  logos_error error;
  logos_bytes value;
  logos_channel_options options = {0};
  uint8_t key = 0x5a;
  uint8_t request_id[16];

  options.size = sizeof options;
  options.hooks = 1;
  TRY(logos_messaging_connect(run_dir, NULL, &ann, &error));
  TRY(logos_messaging_connect(run_dir, NULL, &ben, &error));
  CHECK(logos_messaging_set_channel_encryption(ann, "sealed", seal, NULL, &key, &error) == LOGOS_INVALID_ARGUMENT);
  TRY(logos_messaging_set_channel_encryption(ann, "sealed", seal, unseal, &key, &error));
  TRY(logos_messaging_set_channel_encryption(ben, "sealed", refuse, unseal, &key, &error));
  TRY(logos_messaging_create_channel(ann, "sealed", topic, &options, &error));
  TRY(logos_messaging_create_channel(ben, "sealed", topic, &options, &error));
  TRY(logos_messaging_send_to_channel(ann, "sealed", payload, sizeof payload, NULL, request_id, &error));
  event = next(ben, LOGOS_EVENT_CHANNEL_MESSAGE_RECEIVED);
  CHECK(logos_event_bytes(event, "payload", &value) == 1 && value.size == sizeof payload);
  CHECK(memcmp(value.data, payload, sizeof payload) == 0);
  logos_event_free(event);
  CHECK(logos_messaging_send_to_channel(ben, "sealed", payload, sizeof payload, NULL, NULL, &error) == LOGOS_BAD_REQUEST);
  CHECK(strcmp(error.message, "encryption failed: no key") == 0);
  TRY(logos_messaging_clear_channel_encryption(ben, "sealed", &error));
  CHECK(logos_messaging_clear_channel_encryption(ben, "sealed", &error) == LOGOS_BAD_REQUEST);
  logos_messaging_close(ben, 1);
  logos_messaging_close(ann, 1);
}

int main(int argc, char **argv) {
  without_a_server();
  if (argc > 1) {
    with_a_node(argv[1]);
    with_hooks(argv[1]);
  }
  return 0;
}
