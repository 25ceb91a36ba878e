// Package plain makes of events and bodies what programs that are driven by lines of JSON print: bytes in hex.
package plain

import (
	"encoding/hex"
	"reflect"
	"strings"

	"github.com/logos-mapi/logos-mapi/client/go/logos"
)

// Event is an event with its kind.
func Event(event logos.Event) map[string]any {
	said := Value(event).(map[string]any)
	said["event"] = event.Kind()
	return said
}

// Value is any value.
func Value(value any) any { return of(reflect.ValueOf(value)) }

func of(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Invalid:
		return nil
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		return of(v.Elem())
	case reflect.Struct:
		said := map[string]any{}
		for i := range v.NumField() {
			if field := v.Type().Field(i); field.Anonymous {
				for key, item := range of(v.Field(i)).(map[string]any) {
					said[key] = item
				}
			} else if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" {
				said[name] = of(v.Field(i))
			}
		}
		return said
	case reflect.Map:
		said := map[string]any{}
		for _, key := range v.MapKeys() {
			said[key.String()] = of(v.MapIndex(key))
		}
		return said
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			raw := make([]byte, v.Len())
			reflect.Copy(reflect.ValueOf(raw), v)
			return hex.EncodeToString(raw)
		}
		said := make([]any, v.Len())
		for i := range said {
			said[i] = of(v.Index(i))
		}
		return said
	}
	return v.Interface()
}
