package logos

import (
	"fmt"
	"math"
	"reflect"
	"sort"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/tinylib/msgp/msgp"
)

// Bodies of requests and replies: structs with the keys in their json tags, as maps of MessagePack.
//
// The contract is stricter than the codecs that work by reflection: text is not binary, an integer no float, nil is
// absent, what has no default must be there, and writers use the shortest forms (§2).

type bodyField struct {
	name      string
	index     int
	omitEmpty bool
}

var bodyFields sync.Map // reflect.Type → []bodyField

func fieldsOf(t reflect.Type) []bodyField {
	if known, ok := bodyFields.Load(t); ok {
		return known.([]bodyField)
	}
	var fields []bodyField
	for i := range t.NumField() {
		name, option, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		fields = append(fields, bodyField{name, i, option == "omitempty"})
	}
	bodyFields.Store(t, fields)
	return fields
}

// A nil body is an empty map.
func encodeBody(body any) []byte {
	if body == nil {
		return msgp.AppendMapHeader(nil, 0)
	}
	return appendValue(nil, reflect.ValueOf(body))
}

type selfEncoder interface{ appendTo([]byte) []byte }

func appendValue(b []byte, v reflect.Value) []byte {
	if !v.IsValid() {
		return msgp.AppendNil(b)
	}
	if own, ok := v.Interface().(selfEncoder); ok {
		return own.appendTo(b)
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return appendValue(b, v.Elem())
	case reflect.String:
		return msgp.AppendString(b, v.String())
	case reflect.Bool:
		return msgp.AppendBool(b, v.Bool())
	case reflect.Int, reflect.Int64, reflect.Int32:
		if n := v.Int(); n < 0 {
			return msgp.AppendInt64(b, n)
		}
		return msgp.AppendUint64(b, uint64(v.Int()))
	case reflect.Uint, reflect.Uint64, reflect.Uint32, reflect.Uint8:
		return msgp.AppendUint64(b, v.Uint())
	case reflect.Float64:
		return msgp.AppendFloat64(b, v.Float())
	case reflect.Array, reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			if v.Kind() == reflect.Slice {
				return msgp.AppendBytes(b, v.Bytes())
			}
			raw := make([]byte, v.Len())
			reflect.Copy(reflect.ValueOf(raw), v)
			return msgp.AppendBytes(b, raw)
		}
		b = msgp.AppendArrayHeader(b, uint32(v.Len()))
		for i := range v.Len() {
			b = appendValue(b, v.Index(i))
		}
		return b
	case reflect.Map:
		keys := v.MapKeys()
		sort.Slice(keys, func(i, j int) bool { return keys[i].String() < keys[j].String() })
		b = msgp.AppendMapHeader(b, uint32(len(keys)))
		for _, key := range keys {
			b = appendValue(msgp.AppendString(b, key.String()), v.MapIndex(key))
		}
		return b
	case reflect.Struct:
		var present []bodyField
		for _, field := range fieldsOf(v.Type()) {
			if !field.omitEmpty || !v.Field(field.index).IsZero() {
				present = append(present, field)
			}
		}
		b = msgp.AppendMapHeader(b, uint32(len(present)))
		for _, field := range present {
			b = appendValue(msgp.AppendString(b, field.name), v.Field(field.index))
		}
		return b
	}
	panic(fmt.Sprintf("logos: %s is no value of the contract", v.Type()))
}

// Reads a body, which is one map, into the struct or map that into points to.
func decodeBody(frame []byte, into any) error {
	if msgp.NextType(frame) != msgp.MapType {
		return badFrame("the body is not a map")
	}
	rest, err := readValue(frame, reflect.ValueOf(into).Elem())
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes behind it", len(rest))
	}
	if err != nil {
		return badFrame("body: %v", err)
	}
	return nil
}

func readValue(b []byte, v reflect.Value) ([]byte, error) {
	if msgp.IsNil(b) { // absent
		v.SetZero()
		return b[1:], nil
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return readValue(b, v.Elem())
	case reflect.String:
		text, rest, err := msgp.ReadStringBytes(b)
		if err == nil && !utf8.ValidString(text) {
			err = fmt.Errorf("text that is not UTF-8")
		}
		v.SetString(text)
		return rest, err
	case reflect.Bool:
		is, rest, err := msgp.ReadBoolBytes(b)
		v.SetBool(is)
		return rest, err
	case reflect.Int, reflect.Int64:
		n, rest, err := msgp.ReadInt64Bytes(b)
		v.SetInt(n)
		return rest, err
	case reflect.Uint64, reflect.Uint32:
		n, rest, err := msgp.ReadUint64Bytes(b)
		if err == nil && (n > math.MaxInt64 || v.OverflowUint(n)) {
			err = fmt.Errorf("%d is too large", n)
		}
		v.SetUint(n)
		return rest, err
	case reflect.Float64:
		return readFloat(b, v)
	case reflect.Array:
		raw, rest, err := msgp.ReadBytesZC(b)
		if err == nil && len(raw) != v.Len() {
			err = fmt.Errorf("%d bytes instead of %d", len(raw), v.Len())
		}
		reflect.Copy(v, reflect.ValueOf(raw))
		return rest, err
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			raw, rest, err := msgp.ReadBytesBytes(b, nil)
			v.SetBytes(raw)
			return rest, err
		}
		return readArray(b, v)
	case reflect.Map:
		return readMap(b, v)
	case reflect.Struct:
		return readStruct(b, v)
	case reflect.Interface:
		found, rest, err := msgp.ReadIntfBytes(b)
		if err == nil && found != nil {
			v.Set(reflect.ValueOf(found))
		}
		return rest, err
	}
	panic(fmt.Sprintf("logos: %s is no value of the contract", v.Type()))
}

// A fractional number may have been sent as an integer.
func readFloat(b []byte, v reflect.Value) ([]byte, error) {
	switch msgp.NextType(b) {
	case msgp.IntType, msgp.UintType:
		n, rest, err := msgp.ReadInt64Bytes(b)
		v.SetFloat(float64(n))
		return rest, err
	default:
		f, rest, err := msgp.ReadFloat64Bytes(b)
		v.SetFloat(f)
		return rest, err
	}
}

func readArray(b []byte, v reflect.Value) ([]byte, error) {
	count, rest, err := msgp.ReadArrayHeaderBytes(b)
	if err == nil && int64(count) > int64(len(rest)) { // each element takes a byte at least
		err = msgp.ErrShortBytes
	}
	if err != nil {
		return rest, err
	}
	v.Set(reflect.MakeSlice(v.Type(), int(count), int(count)))
	for i := range int(count) {
		if rest, err = readValue(rest, v.Index(i)); err != nil {
			return rest, fmt.Errorf("[%d]: %w", i, err)
		}
	}
	return rest, nil
}

func readMap(b []byte, v reflect.Value) ([]byte, error) {
	count, rest, err := msgp.ReadMapHeaderBytes(b)
	if err != nil {
		return rest, err
	}
	v.Set(reflect.MakeMap(v.Type()))
	for range count {
		var key string
		if key, rest, err = msgp.ReadStringBytes(rest); err != nil {
			return rest, err
		}
		value := reflect.New(v.Type().Elem()).Elem()
		if rest, err = readValue(rest, value); err != nil {
			return rest, fmt.Errorf("%s: %w", key, err)
		}
		v.SetMapIndex(reflect.ValueOf(key), value)
	}
	return rest, nil
}

// Unknown keys are skipped; of a repeated one the last counts.
func readStruct(b []byte, v reflect.Value) ([]byte, error) {
	count, rest, err := msgp.ReadMapHeaderBytes(b)
	if err != nil {
		return rest, err
	}
	fields := fieldsOf(v.Type())
	seen := make([]bool, len(fields))
	for range count {
		var key []byte
		if key, rest, err = msgp.ReadStringZC(rest); err != nil {
			return rest, err
		}
		found := -1
		for i := range fields {
			if fields[i].name == string(key) {
				found = i
			}
		}
		if found < 0 {
			if rest, err = msgp.Skip(rest); err != nil {
				return rest, err
			}
			continue
		}
		seen[found] = !msgp.IsNil(rest)
		if rest, err = readValue(rest, v.Field(fields[found].index)); err != nil {
			return rest, fmt.Errorf("%s: %w", key, err)
		}
	}
	for i, field := range fields {
		if !seen[i] && !field.omitEmpty {
			return rest, fmt.Errorf("%s is missing", field.name)
		}
	}
	return rest, nil
}
