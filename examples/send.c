/* Send one event to the relay over UDP. */
#include <arpa/inet.h>
#include <stdio.h>
#include <unistd.h>

/* Return 0 once the kernel has accepted the datagram. */
int send_event(const char *event_type) {
  struct sockaddr_in relay = {.sin_family = AF_INET, .sin_port = htons(8125)};
  char body[1024];
  int length, sent, fd = socket(AF_INET, SOCK_DGRAM, 0);

  inet_pton(AF_INET, "127.0.0.1", &relay.sin_addr);
  length = snprintf(body, sizeof body,
                    "{\"event_type\": \"%s\", \"tenant_id\": 2, "
                    "\"source\": {\"platform\": \"tv\", \"device_id\": \"box-7\"}}",
                    event_type);
  if (fd < 0 || length >= (int)sizeof body) return -1;
  sent = sendto(fd, body, length, 0, (struct sockaddr *)&relay, sizeof relay);
  close(fd);
  return sent == length ? 0 : -1;
}

int main(void) { return send_event("c.sent"); }
