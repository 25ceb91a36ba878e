// Hooks of channels without a socket.
#include "channel_hooks.hpp"

#include <gtest/gtest.h>

#include "calls.hpp"

namespace logos {
namespace {

Bytes bytes(std::string_view text) { return {as_bytes(text).begin(), as_bytes(text).end()}; }

Hook copying() {
  return [](BytesView segment) { return Bytes(segment.begin(), segment.end()); };
}

Hook failing(std::string reason) {
  return [reason](BytesView) -> Bytes { throw std::runtime_error(reason); };
}

Reply split(Value::Array sizes) {
  return {Value::Map{{"sizes", std::move(sizes)}, {"needed", 1}}, {bytes("he"), bytes("llo")}, {}};
}

TEST(ChannelHooks, EncryptEachSegmentAndDigestThePlainPayload) {
  const HookPair pair{[](BytesView segment) {
                        Bytes sealed(segment.rbegin(), segment.rend());
                        sealed.push_back('!');
                        return sealed;
                      },
                      copying()};
  const auto whole = seal_payload(pair, as_bytes("hello"), split({3, 2}));
  EXPECT_EQ(as_text(whole.data), "leh!ol!");
  EXPECT_EQ(*whole.sealed.find("sizes"), Value(Value::Array{4, 3}));
  EXPECT_EQ(*whole.sealed.find("needed"), Value(1));
  EXPECT_EQ(to_hex(*whole.sealed.find("digest")->get<Bytes>()),
            "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
}

TEST(ChannelHooks, AFailureOfEncryptionIsTheSendsError) {
  try {
    (void)seal_payload({failing("no key"), copying()}, as_bytes("hello"), split({5}));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadRequest);
    EXPECT_EQ(error.message(), "encryption failed: no key");
  }
  EXPECT_THROW((void)seal_payload({copying(), copying()}, as_bytes("hello"), split({6})), Error);
}

TEST(ChannelHooks, AFailureOfDecryptionIsGivenBackAsTextThatTheContractTakes) {
  const auto reason = [](const Hook& hook) {
    const OpenedSegment opened = open_segment({copying(), hook}, {});
    EXPECT_FALSE(opened.content);
    return *opened.body.find("error")->get<std::string>();
  };
  EXPECT_EQ(reason(failing("no key")), "no key");
  EXPECT_EQ(reason(failing("")), "the hook failed");
  EXPECT_EQ(reason(failing("\xff")), "the hook failed");
  EXPECT_EQ(reason([](BytesView) -> Bytes { throw 1; }), "the hook failed");
  std::string umlauts = "x";
  for (int count = 0; count < 600; ++count) umlauts += "ü";
  EXPECT_EQ(reason(failing(umlauts)), umlauts.substr(0, 999));  // whole characters
  const OpenedSegment opened = open_segment({copying(), copying()}, {});
  EXPECT_TRUE(opened.content);
  EXPECT_EQ(opened.body.find("error"), nullptr);
}

TEST(ChannelHooks, AreForgottenOnceCleared) {
  ChannelHooks hooks;
  hooks.set("room", {copying(), copying()});
  EXPECT_NE(hooks.find("room"), nullptr);
  EXPECT_EQ(hooks.find("another"), nullptr);
  hooks.clear("room");
  EXPECT_EQ(hooks.find("room"), nullptr);
  EXPECT_THROW(hooks.clear("room"), Error);
}

}  // namespace
}  // namespace logos
