// File: pairs.h
//
// Cases of which any two levels of any two factors meet in one, or many drawn at random.
#pragma once

#include <cstdio>
#include <exception>
#include <functional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "tests/causal_conv1d/on_host/tensors.h"

namespace conv1d_test {

using Levels = std::vector<int>;  // of each factor, the level's number

// The product has millions: these are some of it.
inline std::vector<Levels> Drawn(const std::vector<int>& counts, int cases) {
  Numbers numbers(11);
  std::vector<Levels> drawn(cases, Levels(counts.size()));
  for (Levels& one : drawn) {
    for (size_t f = 0; f < counts.size(); ++f) one[f] = numbers.Below(counts[f]);
  }
  return drawn;
}

// Greedily, of fifty random cases that hold a missing pair the one with the most missing pairs.
inline std::vector<Levels> Pairwise(const std::vector<int>& counts) {
  std::set<std::tuple<int, int, int, int>> missing;
  const int n = static_cast<int>(counts.size());
  for (int f = 0; f < n; ++f) {
    for (int g = f + 1; g < n; ++g) {
      for (int a = 0; a < counts[f]; ++a) {
        for (int b = 0; b < counts[g]; ++b) missing.insert({f, g, a, b});
      }
    }
  }
  const auto pairs = [n](const Levels& one, auto with) {
    for (int f = 0; f < n; ++f) {
      for (int g = f + 1; g < n; ++g) with(std::tuple<int, int, int, int>{f, g, one[f], one[g]});
    }
  };
  Numbers numbers(7);
  std::vector<Levels> cases;
  while (!missing.empty()) {
    Levels best;
    size_t most = 0;
    for (int attempt = 0; attempt < 50; ++attempt) {
      Levels one(n);
      for (int f = 0; f < n; ++f) one[f] = numbers.Below(counts[f]);
      const auto& [f, g, a, b] = *missing.begin();
      one[f] = a, one[g] = b;
      size_t found = 0;
      pairs(one, [&](const auto& pair) { found += missing.count(pair); });
      if (found > most) most = found, best = one;
    }
    pairs(best, [&](const auto& pair) { missing.erase(pair); });
    cases.push_back(best);
  }
  return cases;
}

// Checks each case and says which failed; the status of main.
inline int CheckCases(const std::vector<int>& counts, bool many,
                      const std::function<void(const Levels&, uint64_t seed)>& check) {
  const std::vector<Levels> cases = many ? Drawn(counts, 1000) : Pairwise(counts);
  int failures = 0;
  for (size_t i = 0; i < cases.size(); ++i) {
    std::string said;
    try {
      check(cases[i], i);
    } catch (const std::exception& error) {
      said = error.what();
    }
    if (said.empty() || ++failures > 20) continue;
    std::fprintf(stderr, "case %zu (", i);
    for (int level : cases[i]) std::fprintf(stderr, " %d", level);
    std::fprintf(stderr, " ): %s\n", said.c_str());
  }
  std::printf("%zu cases, %d failed\n", cases.size(), failures);
  return failures > 0;
}

}  // namespace conv1d_test
