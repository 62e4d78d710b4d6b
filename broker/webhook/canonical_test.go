package webhook

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

func TestCanonicalForm(t *testing.T) {
	t.Parallel()
	tests := []struct{ in, want string }{
		{`{"b":1,"a":{"d":[{"z":1,"y":2}],"c":null}}`, `{"a":{"c":null,"d":[{"y":2,"z":1}]},"b":1}`},
		{`{"10":1,"9":2,"b":3,"":4,"01":5,"-1":6,"4294967294":7,"4294967295":8}`, `{"9":2,"10":1,"4294967294":7,"":4,"-1":6,"01":5,"4294967295":8,"b":3}`},
		{`{"\uffee":1,"\ud83d\ude00":2,"z":3}`, `{"z":3,"😀":2,"` + "\uffee" + `":1}`}, // UTF-16: surrogates sort before U+FFEE
		{`{"__proto__":{"x":1},"a":{"__proto__":1}}`, `{"a":{}}`},
		{`"\u2028\u2029\u007f\u0000\u001f\b\f\n\r\t\"\\\/<>&é"`, `"` + "\u2028\u2029\u007f" + `\u0000\u001f\b\f\n\r\t\"\\/<>&é"`},
		{`"\ud800"`, `"` + "\ufffd" + `"`},
		{
			`[0,-0,1.0,1e2,123456789012345678901234567890,9007199254740993,0.1,1e-7,0.000001,1e21,1e20,-1.5e-9,5e-324,1.7976931348623157e308,1e999,-1e999,1e-999]`,
			`[0,0,1,100,1.2345678901234568e+29,9007199254740992,0.1,1e-7,0.000001,1e+21,100000000000000000000,-1.5e-9,5e-324,1.7976931348623157e+308,null,null,0]`,
		},
		{`[true,false,null,{},[]]`, `[true,false,null,{},[]]`},
	}
	for _, tt := range tests {
		dec := json.NewDecoder(strings.NewReader(tt.in))
		dec.UseNumber()
		var v any
		if err := dec.Decode(&v); err != nil {
			t.Fatal(err)
		}
		got, err := appendCanonical(nil, v)
		if err != nil || string(got) != tt.want {
			t.Errorf("%s:\n got %s, %v\nwant %s", tt.in, got, err, tt.want)
		}
	}
	for _, v := range []any{int(5), []string{"b", "a"}, map[string]int{"b": 1, "a": 2}, json.Number("x"), make(chan int)} {
		got, err := appendCanonical(nil, v)
		switch v.(type) {
		case json.Number, chan int:
			if err == nil {
				t.Errorf("%v: got %s, want an error", v, got)
			}
		default:
			if err != nil || !json.Valid(got) {
				t.Errorf("%v: got %s, %v", v, got, err)
			}
		}
	}
}

// FuzzCanonical checks that the canonical form is JSON, and its own canonical form.
func FuzzCanonical(f *testing.F) {
	f.Add([]byte(`{"b":[1,{"10":1e400,"9":-0}],"a":"\ud800\u2028","__proto__":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		decode := func(b []byte) (v any, err error) {
			dec := json.NewDecoder(bytes.NewReader(b))
			dec.UseNumber()
			err = dec.Decode(&v)
			return v, err
		}
		v, err := decode(b)
		if err != nil {
			return
		}
		once, err := appendCanonical(nil, v)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decode(once)
		if err != nil {
			t.Fatalf("%s is not JSON: %v", once, err)
		}
		if twice, err := appendCanonical(nil, again); err != nil || !bytes.Equal(once, twice) {
			t.Errorf("%s became %s, %v", once, twice, err)
		}
	})
}

// receiversJS verifies signatures in the three ways of receivers: over the body as received;
// over the parsed body with the keys of objects sorted, except inside arrays; over the same
// with them sorted inside arrays too.
const receiversJS = `
const crypto = require('crypto');
const plain = (v) => {
  if (v === null || typeof v !== 'object' || Array.isArray(v)) return v;
  const out = {};
  for (const k of Object.keys(v).sort()) out[k] = plain(v[k]);
  return out;
};
const deep = (v) => {
  if (Array.isArray(v)) return v.map(deep);
  if (v === null || typeof v !== 'object') return v;
  return Object.keys(v).sort().reduce((acc, k) => { acc[k] = deep(v[k]); return acc; }, {});
};
const lines = require('fs').readFileSync(process.argv[2], 'utf8').split('\n').filter(Boolean);
for (const line of lines) {
  const { secret, signature, body } = JSON.parse(line);
  const raw = Buffer.from(body, 'base64').toString('utf8');
  const forms = { raw, plain: JSON.stringify(plain(JSON.parse(raw))), deep: JSON.stringify(deep(JSON.parse(raw))) };
  for (const [name, form] of Object.entries(forms)) {
    const want = Buffer.from(crypto.createHmac('sha256', secret).update(form).digest('hex'));
    const got = Buffer.from(signature);
    if (got.length !== want.length || !crypto.timingSafeEqual(got, want)) {
      console.log(name + ' does not verify:\n' + raw + '\n' + form);
      process.exitCode = 1;
    }
  }
}
`

func TestEveryDocumentedReceiverVerifiesTheSignature(t *testing.T) {
	t.Parallel()
	node, err := exec.LookPath("node")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal("node is missing: CI must check signatures as receivers do")
	}
	if err != nil {
		t.Skip("SIGNATURES NOT CHECKED AGAINST JAVASCRIPT: node is missing")
	}
	dir := t.TempDir()
	script, cases := filepath.Join(dir, "receivers.js"), filepath.Join(dir, "cases")
	secret := secret.New("kéy of the webhook")
	rng := rand.New(rand.NewPCG(1, 2))
	var lines bytes.Buffer
	enc := json.NewEncoder(&lines)
	for range 500 {
		event := testEvent("e")
		event.Connection.Metadata, _ = randomValue(rng, 0).(map[string]any)
		event.Connection.Settings = map[string]any{"x": randomValue(rng, 0), "client_secret": "s"}
		event.Connection.Key.Consumer = randomString(rng)
		b, err := body(&event, 1+rng.IntN(9))
		if err != nil {
			t.Fatal(err)
		}
		if err := enc.Encode(map[string]any{"secret": secret.Reveal(), "signature": signature(secret, b), "body": b}); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string][]byte{script: []byte(receiversJS), cases: lines.Bytes()} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.CommandContext(t.Context(), node, script, cases).CombinedOutput(); err != nil {
		t.Errorf("%v\n%.4000s", err, out)
	}
}

func randomString(rng *rand.Rand) string {
	pieces := []string{
		"a", "b", "Z", "10", "9", "0", "01", "4294967294", "4294967295", "__proto__", "constructor", "toString", "é", "\u2028",
		"\uffee", "😀", "\x00", "\x1f", "\b\f\n\r\t", `"\`, "</script>&", "\x7f", "\xff", "-1", " ", "",
	}
	s := pieces[rng.IntN(len(pieces))]
	if rng.IntN(3) == 0 {
		s += pieces[rng.IntN(len(pieces))]
	}
	return s
}

func randomValue(rng *rand.Rand, depth int) any {
	kind := rng.IntN(8)
	if depth == 0 {
		kind = 7
	}
	switch kind {
	case 0:
		return math.Float64frombits(rng.Uint64())
	case 1:
		numbers := []json.Number{"1.0", "-0", "1e999", "9007199254740993", "123456789012345678901", "1E-7", "0.1e1", "100000000000000000000000"}
		return numbers[rng.IntN(len(numbers))]
	case 2:
		return rng.IntN(2) == 0
	case 3:
		return nil
	case 4, 5:
		return randomString(rng)
	case 6:
		a := make([]any, rng.IntN(4))
		for i := range a {
			a[i] = randomValue(rng, depth+1)
		}
		return a
	default:
		o := make(map[string]any)
		if depth < 5 {
			for range rng.IntN(8) {
				o[randomString(rng)] = randomValue(rng, depth+1)
			}
		}
		return o
	}
}

func testEvent(id string) record.Event {
	at := time.Date(2026, 3, 4, 5, 6, 7, 8_900_000, time.FixedZone("", 3600))
	hubspot := connector.ID{UnifiedAPI: "crm", ServiceID: "hubspot"}
	return record.Event{
		ID: id, Type: record.EventRefreshFailed, OccurredAt: at,
		Connection: record.Connection{
			Key: record.Key{Application: "app", Consumer: "cust_1", Connector: hubspot},
			Connector: connector.Definition{
				ID: hubspot, Name: "HubSpot", Website: "https://www.hubspot.com", AuthType: connector.OAuth2,
				Settings: []connector.Setting{{Name: "pin", Sensitive: true}},
			},
			State: record.StateAdded, Health: record.HealthNeedsAuth, Enabled: true,
			Settings:  map[string]any{"instance_url": "https://eu28.acme.test", "pin": record.Mask},
			Metadata:  map[string]any{"plan": "enterprise"},
			CreatedAt: at, UpdatedAt: at,
		},
	}
}
