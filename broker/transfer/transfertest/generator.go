// Package transfertest makes files of connections for tests: rows in each format of package
// transfer, some of them bad in ways that real tables are. The same seed makes the same rows.
package transfertest

import (
	"bytes"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/broker/transfer"
)

// A Generator makes the rows of one file.
type Generator struct {
	// BadShare is the share of rows that are bad.
	BadShare float64
	// Expires is when tokens expire.
	Expires time.Time
	// Connector is that of the rows.
	Connector connector.ID

	format string
	random *rand.Rand
	shape  shape
	number int
	last   string // consumer of the last good row
	next   []Kind // bad kinds to come, so that all occur
}

// New returns a generator of rows in a format, for tokens that expire in half a day.
func New(format string, seed uint64) *Generator {
	return &Generator{
		BadShare: 0.03, Expires: time.Now().Add(12 * time.Hour).Truncate(time.Second).UTC(),
		Connector: connector.ID{UnifiedAPI: "crm", ServiceID: "acme"},
		format:    format, random: rand.New(rand.NewPCG(seed, 7)), shape: shapes[format],
	}
}

// Options returns the options with which the file is imported.
func (g *Generator) Options() transfer.Options {
	o := transfer.Options{Format: g.format, EncryptionKey: secret.New(base64.StdEncoding.EncodeToString(nangoKey))}
	if g.format != "canonical" {
		o.Connectors = map[string]connector.ID{"acme": g.Connector, "absent": {UnifiedAPI: "crm", ServiceID: "absent"}}
	}
	return o
}

// Header returns the first line of a CSV file, empty for JSON.
func (g *Generator) Header() string {
	if g.shape.json {
		return ""
	}
	return csvLine(g.shape.columns)
}

// Next returns the next line, and what is bad about it; empty for a good row.
func (g *Generator) Next() (line string, bad Kind) {
	g.number++
	r := &row{
		consumer: fmt.Sprintf("%s-%d", g.format, g.number), provider: "acme", connector: g.Connector,
		access: g.token("at", 40), refresh: g.token("rt", 40), expires: g.Expires,
	}
	if g.random.Float64() < g.BadShare {
		if len(g.next) == 0 {
			g.next = Kinds()
			g.random.Shuffle(len(g.next), func(i, j int) { g.next[i], g.next[j] = g.next[j], g.next[i] })
		}
		if bad, g.next = g.next[0], g.next[1:]; bad == Duplicate && g.last == "" {
			bad = "" // there is nothing to repeat yet
		}
	}
	if bad == Duplicate {
		r.consumer = g.last
	} else if spoil := kinds[bad].spoil; spoil != nil {
		spoil(r)
	}
	if bad == "" {
		g.last = r.consumer
	}
	line = g.render(r)
	if garble := kinds[bad].garble; garble != nil {
		line = garble(line, g.shape.json)
	}
	return line, bad
}

// token returns a token that no other row has.
func (g *Generator) token(kind string, length int) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	b := []byte(fmt.Sprintf("canary-%s-%d-", kind, g.number))
	for len(b) < length {
		b = append(b, digits[g.random.IntN(len(digits))])
	}
	return string(b)
}

// render returns the line of a row.
func (g *Generator) render(r *row) string {
	values := g.shape.values(r)
	if !g.shape.json {
		texts := make([]string, 0, len(values))
		for _, v := range values {
			texts = append(texts, fmt.Sprint(v))
		}
		return csvLine(texts)
	}
	var b bytes.Buffer
	for i, v := range values {
		fmt.Fprintf(&b, ",%q:%s", g.shape.columns[i], encode(v))
	}
	return "{" + strings.TrimPrefix(b.String(), ",") + "}\n"
}

func encode(v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err)
	}
	return strings.TrimSpace(b.String())
}

func csvLine(fields []string) string {
	var b strings.Builder
	w := csv.NewWriter(&b)
	if err := w.Write(fields); err != nil {
		panic(err)
	}
	w.Flush()
	return b.String()
}

// Reader returns a file of so many rows. It is made while it is read, so that it can be larger
// than memory.
func (g *Generator) Reader(rows int) io.Reader {
	return &reader{generator: g, left: rows, rest: g.Header()}
}

type reader struct {
	generator *Generator
	left      int
	rest      string
}

// Read implements [io.Reader].
func (r *reader) Read(p []byte) (int, error) {
	for r.rest == "" {
		if r.left == 0 {
			return 0, io.EOF
		}
		r.left--
		r.rest, _ = r.generator.Next()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
