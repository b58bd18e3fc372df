// Writes DIR/latents and DIR/text, random, to train on where only speed matters.
//   random_caches DIR SAMPLES DIM SHORTEST LONGEST LATENT_SIZE

#include "random_caches.hpp"

#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) {
  if (argc != 7) {
    std::fprintf(stderr, "usage: random_caches DIR SAMPLES DIM SHORTEST LONGEST LATENT_SIZE\n");
    return 64;
  }
  const auto number = [&](int i) { return std::atoll(argv[i]); };
  strata::RandomCaches{.samples = number(2),
                       .dim = number(3),
                       .shortest = number(4),
                       .longest = number(5),
                       .latent_size = number(6)}
      .write(argv[1]);
}
