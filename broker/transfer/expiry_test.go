package transfer

import (
	"encoding/json"
	"testing"
	"time"
)

func TestExpiryIsReadInItsUnit(t *testing.T) {
	t.Parallel()
	want := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		value any
		unit  Unit
	}{
		{json.Number("1767366245"), UnitSeconds},
		{"1767366245", UnitSeconds},
		{json.Number("1767366245.0"), UnitSeconds},
		{json.Number("1.767366245e9"), UnitSeconds},
		{json.Number("1767366245000"), UnitMilliseconds},
		{" 1767366245000 ", UnitMilliseconds},
		{"2026-01-02T15:04:05Z", UnitZoned},
		{"2026-01-02T15:04:05.000000Z", UnitZoned},
		{"2026-01-02T16:04:05+01:00", UnitZoned},
		{"2026-01-02T16:04:05+0100", UnitZoned},
		{"2026-01-02 15:04:05+00", UnitZoned},
		{"2026-01-02 15:04:05.000+00", UnitZoned},
		{"2026-01-02 20:34:05+05:30", UnitZoned},
		{"2026-01-02 15:04:05 UTC", UnitZoned},
		{"2026-01-02 17:04:05 +0200", UnitZoned},
		{"2026-01-02 17:04:05", UnitLocal},
		{"2026-01-02 17:04:05.000000", UnitLocal},
		{"2026-01-02T17:04:05", UnitLocal},
	} {
		e, err := parseExpiry("c", test.value, time.FixedZone("", 7200))
		if err != nil || e == nil || e.Unit != test.unit || !e.At.Equal(want) {
			t.Errorf("%v: got %+v, %v, want %s in %s", test.value, e, err, want, test.unit)
		}
	}
	if e, err := parseExpiry("c", json.Number("3600"), time.UTC); err != nil || e.Unit != UnitLifetime || e.Lifetime != time.Hour || !e.At.IsZero() {
		t.Errorf("got %+v, %v, want a lifetime of an hour", e, err)
	}
	for _, none := range []any{nil, "", json.Number("0"), "0001-01-01T00:00:00Z"} {
		if e, err := parseExpiry("c", none, time.UTC); e != nil || err != nil {
			t.Errorf("%v: got %+v, %v, want no expiry", none, e, err)
		}
	}
	for _, bad := range []any{"soon", "-1", "NaN", "Inf", "1e15", "2026-13-02", true, []any{}, "99999-01-01"} {
		if e, err := parseExpiry("c", bad, time.UTC); err == nil {
			t.Errorf("%v: got %+v, want an error", bad, e)
		}
	}
}

func TestTheLimitsOfUnits(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Unit{
		"999999999": UnitLifetime, "1000000000": UnitSeconds, "99999999999": UnitSeconds, "100000000000": UnitMilliseconds,
	} {
		if e, err := parseExpiry("c", text, time.UTC); err != nil || e.Unit != want {
			t.Errorf("%s: got %+v, %v, want %s", text, e, err, want)
		}
	}
}
