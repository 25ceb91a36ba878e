// Live events that are held while earlier ones are replayed.
#include <gtest/gtest.h>

#include "held.hpp"

namespace logos {
namespace {

using Seqs = std::vector<std::uint64_t>;

KernelEventFrames event_at(std::uint64_t seq, Epoch epoch = {}) {
  KernelEventFrames frames;
  frames.position.seq = seq;
  frames.position.epoch = epoch;
  frames.kind = 1;
  frames.event = KernelMessage{};
  return frames;
}

HeldEvents held(const Seqs& seqs) {
  HeldEvents events(1 << 20);
  for (const std::uint64_t seq : seqs) events.add(event_at(seq));
  return events;
}

Seqs taken(HeldEvents& events, std::uint64_t last) {
  Seqs seqs;
  for (const auto& one : events.take({}, {}, last)) seqs.push_back(one.position.seq);
  return seqs;
}

TEST(HeldEvents, AReplayThatReachesThemGivesWayToThem) {
  HeldEvents events = held({5, 6, 7});
  EXPECT_EQ(taken(events, 3), Seqs{});
  EXPECT_EQ(taken(events, 4), (Seqs{5, 6, 7}));
  EXPECT_EQ(taken(events, 4), Seqs{});
  EXPECT_EQ(events.bytes(), 0U);
  HeldEvents reached = held({5, 6, 7});
  EXPECT_EQ(taken(reached, 7), Seqs{});
  EXPECT_EQ(taken(reached, 6), Seqs{7}) << "the replay went on into them";
}

TEST(HeldEvents, AGapBeginsANewRun) {
  HeldEvents events = held({5, 6});
  EXPECT_EQ(events.add(event_at(8)), 2U);
  EXPECT_EQ(taken(events, 4), Seqs{});
  EXPECT_EQ(taken(events, 7), Seqs{8});
}

TEST(HeldEvents, AreBoundedAndOfOneEpoch) {
  HeldEvents events(10 * cost_of(KernelMessage{}));
  for (std::uint64_t seq = 1; seq < 100; ++seq) {
    events.add(event_at(seq));
    ASSERT_LE(events.bytes(), 11 * cost_of(KernelMessage{}));
  }
  EXPECT_EQ(events.add(event_at(100, Epoch{1})), 9U);
  EXPECT_EQ(taken(events, 99), Seqs{}) << "of another epoch";
}

}  // namespace
}  // namespace logos
