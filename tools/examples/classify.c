/* Classifies pictures one by one: classify MODEL NEXT KEYS PICTURE...
 *
 *   cc classify.c $(pkg-config --cflags --libs offramp-client) -o classify */
#include <offramp/client_c.h>
#include <stdio.h>

static int complain(int code) {
  fprintf(stderr, "classify: %s\n", offramp_last_error());
  return code;
}

int main(int count, char** words) {
  static unsigned char file[16 << 20];
  offramp_options options = {.size = sizeof options};
  offramp_client* client = NULL;
  if (count < 5) return OFFRAMP_USAGE;
  options.model = words[1];
  options.next = words[2];
  options.keys = words[3];
  options.connect_grace_ms = options.deadline_ms = 60000;
  int opened = offramp_open(&options, &client);
  if (opened != OFFRAMP_OK) return complain(opened);
  for (int i = 4; i < count; ++i) {
    FILE* in = fopen(words[i], "rb");
    size_t bytes = in ? fread(file, 1, sizeof file, in) : 0;
    offramp_result result = {.size = sizeof result};
    int code = offramp_classify(client, file, bytes, &result);
    if (in) fclose(in);
    if (code != OFFRAMP_OK) return complain(code);
    printf("%s %d %a %s %s %s\n", words[i], result.label, (double)result.probability,
           result.class_name, result.tier, result.status);
  }
  offramp_close(client);
  return 0;
}
