package logos

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strconv"
	"testing"

	"github.com/tinylib/msgp/msgp"
)

// The contract's vectors (ipc_schema/vectors/frames.json): what a client sends, and what it gets.
type vector struct {
	Name, Kind, Code, Server, Method string
	Frames                           []hexBytes
	Exact                            bool
	Meaning                          meaning
	Error                            string
	Retriable                        bool
}

type hexBytes []byte

func (h *hexBytes) UnmarshalJSON(text []byte) (err error) {
	var digits string
	if err = json.Unmarshal(text, &digits); err == nil {
		*h, err = hex.DecodeString(digits)
	}
	return err
}

// A value of the file, with the order of its keys.
type meaning struct{ value any }

type pair struct {
	key   string
	value any
}

type pairs []pair

func (m *meaning) UnmarshalJSON(text []byte) (err error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	m.value, err = readMeaning(decoder)
	return err
}

func readMeaning(decoder *json.Decoder) (any, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('['):
		list := []any{}
		for decoder.More() {
			item, err := readMeaning(decoder)
			if err != nil {
				return nil, err
			}
			list = append(list, item)
		}
		_, err = decoder.Token()
		return list, err
	case json.Delim('{'):
		found := pairs{}
		for decoder.More() {
			key, err := decoder.Token()
			if err != nil {
				return nil, err
			}
			value, err := readMeaning(decoder)
			if err != nil {
				return nil, err
			}
			found = append(found, pair{key.(string), value})
		}
		if _, err = decoder.Token(); err != nil || len(found) != 1 {
			return found, err
		}
		switch found[0].key {
		case "$bin":
			return hex.DecodeString(found[0].value.(string))
		case "$int":
			return strconv.ParseInt(found[0].value.(string), 10, 64)
		}
		return found, nil
	}
	if number, is := token.(json.Number); is {
		if whole, err := number.Int64(); err == nil {
			return whole, nil
		}
		return number.Float64()
	}
	return token, nil
}

func (p pairs) appendTo(b []byte) []byte {
	b = msgp.AppendMapHeader(b, uint32(len(p)))
	for _, one := range p {
		b = appendValue(msgp.AppendString(b, one.key), reflect.ValueOf(&one.value).Elem())
	}
	return b
}

func (p pairs) get(key string) any {
	for _, one := range p {
		if one.key == key {
			return one.value
		}
	}
	return nil
}

func vectors(t *testing.T) []vector {
	text, err := os.ReadFile("../../../ipc_schema/vectors/frames.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Version int
		Vectors []vector
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if file.Version != protocolVersion {
		t.Fatalf("vectors of version %d", file.Version)
	}
	return file.Vectors
}

func TestVectors(t *testing.T) {
	ran := 0
	for _, v := range vectors(t) {
		var frames [][]byte
		for _, frame := range v.Frames {
			frames = append(frames, frame)
		}
		meant, good := v.Meaning.value.(pairs)
		check := map[string]func(*testing.T, vector, [][]byte, pairs){
			"request": checkRequest, "reply": checkReply, "app_event": checkAppEvent, "kernel_event": checkKernelEvent,
		}[v.Kind]
		if !good {
			check = map[string]func(*testing.T, vector, [][]byte, pairs){
				"reply": checkBad, "app_event": checkBad, "kernel_event": checkBad,
			}[v.Kind]
		}
		if check == nil || v.Kind == "request" && !v.Exact {
			continue // what only a server reads
		}
		ran++
		t.Run(v.Kind+": "+v.Name, func(t *testing.T) { check(t, v, frames, meant) })
	}
	if ran < 180 {
		t.Errorf("%d vectors only", ran)
	}
}

func checkRequest(t *testing.T, _ vector, frames [][]byte, meant pairs) {
	var blobs [][]byte
	if given, ok := meant.get("blobs").([]any); ok {
		for _, blob := range given {
			blobs = append(blobs, blob.([]byte))
		}
	}
	made := encodeRequest(ID(meant.get("correlation_id").([]byte)), meant.get("method").(string),
		uint64(meant.get("budget_ms").(int64)), uint64(meant.get("flags").(int64)), encodeBody(meant.get("body")), blobs...)
	if meant.get("delimited") == true {
		frames = frames[1:]
	}
	if !reflect.DeepEqual(made, frames) {
		t.Errorf("made %x\nwanted %x", made, frames)
	}
}

func checkReply(t *testing.T, v vector, frames [][]byte, meant pairs) {
	answer, err := decodeReply(frames)
	if err != nil {
		t.Fatal(err)
	}
	if isEvent(frames) {
		t.Error("taken for an event")
	}
	if answer.id != ID(meant.get("correlation_id").([]byte)) || answer.instance != ID(meant.get("instance").([]byte)) {
		t.Errorf("%+v", answer)
	}
	if v.Code != "" {
		if answer.err == nil || string(answer.err.Code) != v.Code || answer.err.Retriable != v.Retriable {
			t.Errorf("%+v", answer.err)
		}
		return
	}
	var body map[string]any
	if err := decodeBody(answer.body, &body); answer.err != nil || err != nil {
		t.Error(answer.err, err)
	}
	same(t, body, meant.get("body"))
	if typed := replies[v.Server+" "+v.Method]; typed != nil {
		into := reflect.New(reflect.TypeOf(typed))
		if err := decodeBody(answer.body, into.Interface()); err != nil {
			t.Error(err)
		}
		same(t, into.Interface(), meant.get("body"))
	}
}

var replies = map[string]any{
	"mapi hello": MapiHello{}, "mapi subscribe": SubscribeReply{}, "mapi subscriptions": SubscriptionsReply{},
	"mapi send": SendReply{}, "mapi send_many": SendManyReply{}, "mapi ack": AckReply{}, "mapi status": StatusReply{}, "mapi pending": PendingReply{},
	"mapi find_send": FindSendReply{}, "mapi cancel": CancelReply{}, "mapi channel.create": ChannelCreateReply{}, "mapi channel.list": ChannelListReply{},
	"mapi channel.status": ChannelStatusReply{}, "mapi channel.find_send": ChannelFindSendReply{}, "kernel hello": KernelHello{}, "kernel lease.acquire": LeaseAcquireReply{},
	"kernel stream.replay": StreamReplayReply{}, "kernel relay.publish": RelayPublishReply{},
	"kernel relay.publish_many": RelayPublishManyReply{}, "kernel relay.peers": RelayPeersReply{}, "kernel lightpush.publish": LightpushPublishReply{},
	"kernel store.query": StoreQueryReply{}, "kernel filter.subscribe": FilterSubscribeReply{},
	"kernel peers.list": PeersListReply{}, "kernel peers.connect": PeersConnectReply{}, "kernel peers.known": KnownPeersReply{},
	"kernel discovery.status": DiscoveryStatus{}, "kernel node.health": NodeHealth{}, "kernel node.info": NodeInfoReply{},
	"kernel node.config": NodeConfigReply{}, "kernel node.metrics": NodeMetricsReply{},
}

// The event's fields have the names of the contract in their tags.
func checkAppEvent(t *testing.T, _ vector, frames [][]byte, meant pairs) {
	if !isEvent(frames) {
		t.Error("not taken for an event")
	}
	_, header, event, err := decodeEvent(frames)
	if err != nil {
		t.Fatal(err)
	}
	if event == nil {
		same(t, header, pairs{{"stream_id", meant.get("stream_id")}, {"seq", meant.get("seq")}, {"time_ns", meant.get("time_ns")}})
		return
	}
	checkEvent(t, event, meant)
}

func checkKernelEvent(t *testing.T, _ vector, frames [][]byte, meant pairs) {
	_, place, event, err := decodeKernelEvent("", frames[1], frames[2])
	if err != nil {
		t.Fatal(err)
	}
	if event == nil {
		same(t, place, pairs{{"instance", meant.get("instance")}, {"epoch", meant.get("epoch")}, {"seq", meant.get("seq")}})
		return
	}
	checkEvent(t, event, meant)
}

func checkEvent(t *testing.T, event Event, meant pairs) {
	if event.Kind() != meant.get("event") {
		t.Errorf("%s instead of %v", event.Kind(), meant.get("event"))
	}
	var fields pairs
	for _, one := range meant {
		if one.key != "event" && one.key != "topic" && (one.key != "payload" || hasPayload(event)) {
			fields = append(fields, one)
		}
	}
	same(t, event, fields)
}

func hasPayload(event Event) bool {
	return reflect.ValueOf(event).Elem().FieldByName("Payload").IsValid()
}

// Whether what has all that is wanted of it.
func same(t *testing.T, what, wanted any) {
	t.Helper()
	v := reflect.ValueOf(what)
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	switch wanted := wanted.(type) {
	case pairs:
		for _, one := range wanted {
			field := reflect.Value{}
			if v.Kind() == reflect.Map {
				field = v.MapIndex(reflect.ValueOf(one.key))
			} else {
				field = tagged(v, one.key)
			}
			if !field.IsValid() {
				t.Errorf("no %s", one.key)
				continue
			}
			same(t, field.Interface(), one.value)
		}
	case []any:
		if v.Kind() != reflect.Slice || v.Len() != len(wanted) {
			t.Errorf("%v instead of %v", what, wanted)
			return
		}
		for i, item := range wanted {
			same(t, v.Index(i).Interface(), item)
		}
	default:
		if !bytes.Equal(appendValue(nil, reflect.ValueOf(what)), appendValue(nil, reflect.ValueOf(wanted))) {
			t.Errorf("%v instead of %v", what, wanted)
		}
	}
}

func tagged(v reflect.Value, name string) reflect.Value {
	for i := range v.NumField() {
		if v.Type().Field(i).Anonymous {
			if found := tagged(v.Field(i), name); found.IsValid() {
				return found
			}
		}
	}
	for _, field := range fieldsOf(v.Type()) {
		if field.name == name {
			return v.Field(field.index)
		}
	}
	return reflect.Value{}
}

func checkBad(t *testing.T, v vector, frames [][]byte, _ pairs) {
	var err error
	switch v.Kind {
	case "reply":
		_, err = decodeReply(frames)
	case "app_event":
		_, _, _, err = decodeEvent(frames)
	case "kernel_event":
		_, _, _, err = decodeKernelEvent("", frames[1], frames[2])
	}
	if !errors.Is(err, Code(v.Error)) {
		t.Errorf("%v instead of %s", err, v.Error)
	}
}
