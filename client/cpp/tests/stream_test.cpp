// The app's stream, the kernel's cursor and the values, without a socket.
#include "stream.hpp"

#include <gtest/gtest.h>

#include "cursor.hpp"
#include "frames.hpp"

namespace logos {
namespace {

const Id kStream{1};
const Id kOther{2};

AppEventFrames event(std::uint64_t seq, Event what, std::uint64_t kind = 1, Id stream = kStream) {
  return {{stream, seq, 7}, kind, std::move(what)};
}
AppEventFrames message(std::uint64_t seq, Id stream = kStream) {
  MessageReceived one;
  one.seq = seq;
  return event(seq, one, 1, stream);
}

std::uint64_t seq_of(const std::optional<Event>& event) { return position_of(event.value()).value().seq; }

class Stream : public testing::Test {
 protected:
  void SetUp() override { stream.greeted(kStream, 0, 1000); }
  AppStream stream{1000};
};

TEST_F(Stream, GivesEventsInOrderAndDropsRepeats) {
  EXPECT_TRUE(stream.receive(message(1), 10));
  EXPECT_TRUE(stream.receive(message(2), 10));
  EXPECT_FALSE(stream.receive(message(1), 10));
  EXPECT_EQ(seq_of(stream.take()), 1u);
  EXPECT_EQ(seq_of(stream.take()), 2u);
  EXPECT_FALSE(stream.take());
  EXPECT_EQ(stream.counters.duplicates, 1u);
}

TEST_F(Stream, ReportsAGap) {
  stream.receive(message(1), 10);
  stream.receive(message(5), 10);
  EXPECT_EQ(seq_of(stream.take()), 1u);
  const auto gap = std::get<EventsDropped>(stream.take().value());
  EXPECT_EQ(gap.first, 2u);
  EXPECT_EQ(gap.last, 4u);
  EXPECT_EQ(seq_of(stream.take()), 5u);
  EXPECT_EQ(stream.counters.missing, 3u);
}

TEST_F(Stream, AnEventOfDroppedOnesIsNoGap) {
  EventsDropped dropped;
  dropped.first = 1;
  dropped.last = 6;
  stream.receive(event(6, dropped, 7), 10);
  EXPECT_TRUE(std::holds_alternative<EventsDropped>(stream.take().value()));
  EXPECT_FALSE(stream.take());
}

TEST_F(Stream, AcknowledgesWhatWasHandledAndNotWhatIsInHand) {
  stream.receive(message(1), 10);
  stream.receive(message(2), 10);
  stream.take();
  EXPECT_FALSE(stream.ack_due());
  stream.take();
  EXPECT_EQ(stream.ack_due()->seq, 1u);
  stream.acked({kStream, 1});
  EXPECT_FALSE(stream.ack_due());
  stream.handled();
  EXPECT_EQ(stream.ack_due()->seq, 2u);
}

TEST_F(Stream, KindsOfLaterVersionsAreAcknowledgedWithTheEventBefore) {
  stream.receive(message(1), 10);
  EXPECT_FALSE(stream.receive({{kStream, 2, 7}, 77, std::nullopt}, 10));
  stream.take();
  stream.handled();
  EXPECT_EQ(stream.ack_due()->seq, 2u);
}

TEST_F(Stream, GivesCreditBackByQuartersOfTheWindow) {
  for (std::uint64_t seq = 1; seq <= 4; ++seq) stream.receive(message(seq), 100);
  stream.take();
  stream.take();
  stream.take();
  EXPECT_FALSE(stream.credit_due());  // 200 of 1000
  stream.take();
  EXPECT_EQ(stream.credit_due(), 1300u);
  stream.granted(1300);
  EXPECT_FALSE(stream.credit_due());
}

TEST_F(Stream, AHelloGrantsWhatIsNotQueued) {
  stream.receive(message(1), 400);
  EXPECT_EQ(stream.opening_credit(), 600u);
  stream.receive(message(2), 4000);  // one event may overdraw
  EXPECT_EQ(stream.opening_credit(), 0u);
}

TEST_F(Stream, AnotherStreamIdStartsOver) {
  stream.receive(message(1), 10);
  const auto lost = stream.greeted(kOther, 0, 1000);
  EXPECT_EQ(lost, (Position{kStream, 1}));
  EXPECT_FALSE(stream.receive(message(2), 10));  // of the old one
  EXPECT_TRUE(stream.receive(message(1, kOther), 10));
}

TEST_F(Stream, EventsOfItsOwnAreBounded) {
  for (int count = 0; count < 100; ++count) stream.put_local(LinkLost{std::to_string(count)});
  EXPECT_EQ(stream.counters.local_dropped, 36u);
  EXPECT_EQ(std::get<LinkLost>(stream.take().value()).reason, "36");
}

TEST(Cursor, FillsGapsByReplays) {
  StreamCursor cursor("m/1/0", 0);
  const KernelPosition at{Id{1}, Epoch{1}, 0, 0};
  const auto seq = [&](std::uint64_t number) {
    auto one = at;
    one.seq = number;
    return one;
  };
  cursor.start(at.instance, at.epoch, 4);
  EXPECT_EQ(cursor.live(seq(5)), Verdict::kKeep);
  EXPECT_EQ(cursor.live(seq(5)), Verdict::kSkip);
  EXPECT_EQ(cursor.live(seq(8)), Verdict::kCatchUp);
  cursor.behind = true;
  EXPECT_EQ(cursor.live(seq(9)), Verdict::kSkip);
  for (std::uint64_t number = 6; number <= 9; ++number) EXPECT_EQ(cursor.replayed(seq(number)), Verdict::kKeep);
  cursor.behind = false;
  EXPECT_EQ(cursor.heartbeat(seq(9)), Verdict::kSkip);
  EXPECT_EQ(cursor.heartbeat(seq(10)), Verdict::kCatchUp);
  cursor.give_up(10, "gone");
  ASSERT_EQ(cursor.losses.size(), 1u);
  EXPECT_EQ(cursor.losses[0].first, 10u);
  EXPECT_EQ(cursor.live(seq(11)), Verdict::kKeep);
}

TEST(Cursor, AnotherEpochIsALossOfUnknownSize) {
  StreamCursor cursor("m/1/0", 0);
  EXPECT_EQ(cursor.live({Id{1}, Epoch{1}, 3, 0}), Verdict::kKeep);
  EXPECT_EQ(cursor.live({Id{1}, Epoch{2}, 1, 0}), Verdict::kKeep);
  ASSERT_EQ(cursor.losses.size(), 1u);
  EXPECT_FALSE(cursor.losses[0].last);
}

TEST(Values, KeepTheLastOfARepeatedKey) {
  const Bytes packed{0x82, 0xa1, 'a', 0x01, 0xa1, 'a', 0x02};
  EXPECT_EQ(*unpack(packed).find("a"), Value(2));
}

TEST(Values, RefuseWhatTheContractDoes) {
  const std::vector<Bytes> bad{
      {},                                      // nothing
      {0x01, 0x02},                            // two values
      {0xd4, 0x01, 0x00},                      // an extension type
      {0xa1, 0xff},                            // not UTF-8
      {0xa3, 0xed, 0xa0, 0x80},                // a surrogate
      {0x81, 0x01, 0x02},                      // a key that is not text
      {0xdd, 0xff, 0xff, 0xff, 0xff},          // claims four billion elements
      Bytes(17, 0x91),                         // nested too deeply
      {0xc1},
  };
  for (const Bytes& packed : bad) EXPECT_THROW(unpack(packed), Error) << to_hex(packed);
}

TEST(Values, KeepIntegersOf64Bits) {
  for (const std::int64_t number : {INT64_MIN, INT64_MAX, std::int64_t{1} << 53}) {
    EXPECT_EQ(unpack(pack(Value(number))), Value(number));
  }
}

}  // namespace
}  // namespace logos
