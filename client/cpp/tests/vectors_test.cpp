// Replays the contract's vectors (ipc_schema/vectors/frames.json): what a client sends, and what it gets.
#include <gtest/gtest.h>

#include <fstream>

#include "frames.hpp"
#include "json_values.hpp"

namespace logos {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

const ordered_json& vectors() {
  static const ordered_json all = ordered_json::parse(std::ifstream(VECTORS)).at("vectors");
  return all;
}

/// `{"$bin": hex}` is bytes, `{"$int": decimal}` an integer that JSON's readers may not hold.
Value meaning(const ordered_json& said) {
  if (said.is_null()) return {};
  if (said.is_boolean()) return said.get<bool>();
  if (said.is_number_integer()) return said.get<std::int64_t>();
  if (said.is_number()) return said.get<double>();
  if (said.is_string()) return said.get<std::string>();
  if (said.is_array()) {
    Value::Array array;
    for (const auto& item : said) array.push_back(meaning(item));
    return array;
  }
  if (said.contains("$bin")) return from_hex(said.at("$bin"));
  if (said.contains("$int")) return std::int64_t{std::stoll(said.at("$int").get<std::string>())};
  Value::Map map;
  for (const auto& [key, item] : said.items()) map.emplace_back(key, meaning(item));
  return map;
}

struct Frames {
  explicit Frames(const ordered_json& vector) {
    for (const auto& hex : vector.at("frames")) bytes.push_back(from_hex(hex));
    views.assign(bytes.begin(), bytes.end());
  }
  std::vector<Bytes> bytes;
  std::vector<BytesView> views;
};

Id id_at(const Value& map, std::string_view key) {
  const auto& bytes = *map.find(key)->get<Bytes>();
  Id id;
  std::copy_n(bytes.begin(), id.size(), id.begin());
  return id;
}

/// Without keys that are nil: nil is absent.
json shown(const Value& value) {
  json all = as_json(value);
  for (auto it = all.begin(); it != all.end();) it = it->is_null() ? all.erase(it) : std::next(it);
  return all;
}

std::size_t replay(const std::string& kind, bool good, const std::function<void(const ordered_json&)>& check) {
  std::size_t count = 0;
  for (const auto& vector : vectors()) {
    if (vector.at("kind") != kind || vector.contains("meaning") != good) continue;
    SCOPED_TRACE(vector.at("name").get<std::string>());
    ++count;
    check(vector);
  }
  return count;
}

TEST(Vectors, Requests) {
  const auto count = replay("request", true, [](const ordered_json& vector) {
    if (!vector.value("exact", false)) return;
    const Value good = meaning(vector.at("meaning"));
    const Frames frames(vector);
    const std::size_t skipped = frames.bytes[0].empty() ? 1 : 0;
    const auto header =
        encode_request_header(id_at(good, "correlation_id"), *good.find("method")->get<std::string>(),
                              static_cast<std::uint64_t>(*good.find("budget_ms")->get<std::int64_t>()),
                              static_cast<std::uint64_t>(*good.find("flags")->get<std::int64_t>()));
    EXPECT_EQ(to_hex(header), to_hex(frames.bytes[skipped + 1]));
    EXPECT_EQ(to_hex(pack(*good.find("body"))), to_hex(frames.bytes[skipped + 2]));
  });
  EXPECT_GT(count, 60u);
}

TEST(Vectors, Replies) {
  const auto count = replay("reply", true, [](const ordered_json& vector) {
    const Value good = meaning(vector.at("meaning"));
    const Frames frames(vector);
    EXPECT_FALSE(is_app_event(frames.views));
    const ReplyFrames reply = decode_reply(frames.views);
    EXPECT_EQ(reply.id, id_at(good, "correlation_id"));
    EXPECT_EQ(reply.instance, id_at(good, "instance"));
    EXPECT_EQ(as_json(reply.body), as_json(*good.find("body")));
    Value::Array blobs;
    for (const BytesView blob : std::span(frames.views).subspan(reply.first_blob)) blobs.emplace_back(blob);
    EXPECT_EQ(Value(blobs), *good.find("blobs"));
    ASSERT_EQ(reply.error.has_value(), vector.contains("code"));
    if (!reply.error) return;
    EXPECT_EQ(code_name(reply.error->code()), vector.at("code").get<std::string>());
    EXPECT_EQ(reply.error->retriable(), vector.at("retriable").get<bool>());
  });
  EXPECT_GT(count, 50u);
}

TEST(Vectors, AppEvents) {
  const auto count = replay("app_event", true, [](const ordered_json& vector) {
    const Value good = meaning(vector.at("meaning"));
    const Frames frames(vector);
    EXPECT_TRUE(is_app_event(frames.views));
    const AppEventFrames found = decode_app_event(frames.views);
    EXPECT_EQ(found.position.stream_id, id_at(good, "stream_id"));
    EXPECT_EQ(Value(found.position.seq), *good.find("seq"));
    EXPECT_EQ(Value(found.position.time_ns), *good.find("time_ns"));
    const std::string name = *good.find("event")->get<std::string>();
    ASSERT_EQ(found.event.has_value(), name != "heartbeat" && name != "unknown");
    if (!found.event) return;
    json wanted = shown(good);
    if (!event_value(*found.event).find("payload")) wanted.erase("payload");
    EXPECT_EQ(shown(event_value(*found.event)), wanted);
  });
  EXPECT_GT(count, 20u);
}

TEST(Vectors, KernelEvents) {
  const auto count = replay("kernel_event", true, [](const ordered_json& vector) {
    const Value good = meaning(vector.at("meaning"));
    const Frames frames(vector);
    const KernelEventFrames found = decode_kernel_event(frames.views[1], frames.views[2]);
    EXPECT_EQ(found.position.instance, id_at(good, "instance"));
    EXPECT_EQ(Value(found.position.seq), *good.find("seq"));
    const std::string name = *good.find("event")->get<std::string>();
    ASSERT_EQ(found.event.has_value(), name != "heartbeat" && name != "unknown");
    if (name == "heartbeat") {
      EXPECT_EQ(Value(found.covered), *good.find("covered"));
    }
    if (name != "message") return;
    json wanted = shown(good);
    wanted.erase("topic");
    json got = shown(event_value(*found.event));
    got.erase("stream");
    EXPECT_EQ(got, wanted);
  });
  EXPECT_GT(count, 10u);
}

TEST(Vectors, BadOnesAreRefused) {
  const auto refused = [](const ordered_json& vector, auto decode) {
    const Frames frames(vector);
    try {
      decode(frames);
      ADD_FAILURE() << "taken";
    } catch (const Error& error) {
      EXPECT_EQ(code_name(error.code()), vector.at("error").get<std::string>());
    }
  };
  std::size_t count = replay("reply", false, [&](const auto& vector) {
    refused(vector, [](const Frames& frames) { decode_reply(frames.views); });
  });
  count += replay("app_event", false, [&](const auto& vector) {
    refused(vector, [](const Frames& frames) { decode_app_event(frames.views); });
  });
  count += replay("kernel_event", false, [&](const auto& vector) {
    refused(vector, [](const Frames& frames) { decode_kernel_event(frames.views[1], frames.views[2]); });
  });
  EXPECT_GT(count, 35u);
}

}  // namespace
}  // namespace logos
