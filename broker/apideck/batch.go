package apideck

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Limits of a batch: a body with rows. A row is no longer than the body of one import,
// [MaxBody].
const (
	MaxRows      = 1000
	MaxBatchBody = 16 << 20 // bytes
)

// maxValues bounds the JSON values of a batch of imports, roughly. In memory a value can be fifty times as
// large as in the body.
const maxValues = 500_000

// RowPath returns the path of row n of a batch, which counts from 0.
func RowPath(n int) string { return fmt.Sprintf("connections[%d]", n) }

// ParseImports parses the body of a batch of imports: strict JSON, in which each row is the
// body of an import with the names of the connection beside it. What is wrong with one row is
// that row's Err: an [*record.InputError] that names the row and the member, or an
// [*http.MaxBytesError]. The error is an [*record.InputError] too, or that of reading r.
func ParseImports(r io.Reader, application string) ([]record.ImportRow, error) {
	var rows []record.ImportRow
	values := 0
	err := parseBatch(r, nil, func(path string, raw []byte) error {
		if values += countValues(raw); values > maxValues {
			return &record.InputError{
				Kind: record.InputInvalid, Field: "connections",
				Fault: fmt.Sprintf("has more than %d values", maxValues), Fix: "send fewer rows with a request",
			}
		}
		imp := &record.Import{}
		key, err := parseRow(path, raw, application, importMembers(imp))
		if err != nil {
			rows = append(rows, record.ImportRow{Err: err})
		} else {
			rows = append(rows, record.ImportRow{Key: key, Import: imp})
		}
		return nil
	})
	return rows, err
}

// countValues returns about how many values the JSON has. Commas in strings count too.
func countValues(raw []byte) int {
	return bytes.Count(raw, []byte{','}) + bytes.Count(raw, []byte{'{'}) + bytes.Count(raw, []byte{'['})
}

// ParseVerification parses the body of a verification: rows that name connections and tokens
// by their hashes, and the key of these. The error is an [*record.InputError], an
// [*http.MaxBytesError], or that of reading r.
func ParseVerification(r io.Reader, application string) (rows []record.VerifyRow, key []byte, err error) {
	err = parseBatch(r, members{"salt": into(&key, saltMember)}, func(path string, raw []byte) error {
		var row record.VerifyRow
		row.Key, err = parseRow(path, raw, application, members{
			"access_token":  into(&row.AccessToken, macMember),
			"refresh_token": into(&row.RefreshToken, macMember),
		})
		rows = append(rows, row)
		return err
	})
	if err == nil && key == nil {
		err = &record.InputError{Kind: record.InputInvalid, Field: "salt", Fix: saltFix}
	}
	return rows, key, err
}

// parseRow parses a row and returns the connection that it names.
func parseRow(path string, raw []byte, application string, known members) (record.Key, error) {
	if len(raw) > MaxBody {
		return record.Key{}, &http.MaxBytesError{Limit: MaxBody}
	}
	key := record.Key{Application: application}
	known["app"] = into(&key.Application, stringMember)
	known["consumer_id"] = into(&key.Consumer, stringMember)
	known["unified_api"] = into(&key.Connector.UnifiedAPI, stringMember)
	known["service_id"] = into(&key.Connector.ServiceID, stringMember)
	if err := parseObject(path, raw, known, ""); err != nil {
		return record.Key{}, err
	}
	for _, name := range []struct{ member, value string }{
		{"consumer_id", key.Consumer}, {"unified_api", key.Connector.UnifiedAPI}, {"service_id", key.Connector.ServiceID},
	} {
		if name.value == "" {
			return record.Key{}, &record.InputError{Kind: record.InputInvalid, Field: path + "." + name.member}
		}
	}
	if key.Application != application {
		return record.Key{}, &record.InputError{
			Kind: record.InputInvalid, Field: path + ".app",
			Fault: "is not the application of the x-apideck-app-id header", Fix: "send the same id, or leave it out",
		}
	}
	if err := record.CheckName(record.InputInvalid, path+".consumer_id", key.Consumer); err != nil {
		return record.Key{}, err
	}
	return key, key.Validate()
}

const saltFix = "send 32 to 128 hexadecimal digits, new ones for each verification"

// saltMember parses the key of hashes.
func saltMember(name string, raw json.RawMessage) ([]byte, error) {
	const least, most = 16, 64 // bytes
	salt, err := hexMember(name, raw)
	if err != nil || len(salt) < least || len(salt) > most {
		return nil, &record.InputError{Kind: record.InputInvalid, Field: name, Fault: "is not a key for the hashes", Fix: saltFix}
	}
	return salt, nil
}

// macMember parses an HMAC-SHA-256.
func macMember(name string, raw json.RawMessage) ([]byte, error) {
	const size = 32 // bytes
	mac, err := hexMember(name, raw)
	if err != nil || len(mac) != size {
		// A caller that sends the token by mistake must not read it in the error.
		return nil, &record.InputError{
			Kind: record.InputInvalid, Field: name, Fault: "is not an HMAC-SHA-256",
			Fix: "send 64 hexadecimal digits, never the token itself",
		}
	}
	return mac, nil
}

func hexMember(name string, raw json.RawMessage) ([]byte, error) {
	s, err := stringMember(name, raw)
	if err != nil {
		return nil, err
	}
	return hex.DecodeString(s)
}

// parseBatch reads a JSON object whose member connections is a list of rows, and calls row for
// each: raw is valid until row returns. The body is never in memory as a whole. more are the
// object's further members.
func parseBatch(r io.Reader, more members, row func(path string, raw []byte) error) error {
	dec := json.NewDecoder(r)
	tok, err := dec.Token()
	switch {
	case errors.Is(err, io.EOF):
		return badText("", "is empty", "send a JSON object with connections")
	case err != nil:
		return batchError(err)
	case tok != json.Delim('{'):
		return badBody("", "must be a JSON object", "")
	}
	known := members{"connections": nil}
	maps.Copy(known, more)
	seen := make(map[string]bool)
	rows := 0
	for dec.More() {
		name, err := memberName(dec, known, seen)
		if err != nil {
			return err
		}
		if name == "connections" {
			rows, err = eachRow(dec, row)
		} else {
			err = decodeMember(dec, name, known[name])
		}
		if err != nil {
			return err
		}
	}
	if err := end(dec, '}'); err != nil {
		return err
	}
	if _, err := dec.Token(); err == nil {
		return badText("", "has data after the JSON object", "send one JSON object")
	} else if !errors.Is(err, io.EOF) {
		return batchError(err)
	}
	if rows == 0 {
		return &record.InputError{Kind: record.InputInvalid, Field: "connections", Fix: fmt.Sprintf("send 1 to %d rows", MaxRows)}
	}
	return nil
}

// memberName reads the name of the next member, which must be known and new.
func memberName(dec *json.Decoder, known members, seen map[string]bool) (string, error) {
	tok, err := dec.Token()
	if err != nil {
		return "", batchError(err)
	}
	name, _ := tok.(string) // the decoder refuses other keys
	if _, ok := known[name]; !ok {
		return "", badBody(quoteName(name), "is not a known member", known.list())
	}
	if seen[name] {
		return "", badBody(name, "is sent twice", "send it once")
	}
	seen[name] = true
	return name, nil
}

func decodeMember(dec *json.Decoder, name string, parse memberFunc) error {
	var raw json.RawMessage
	if err := dec.Decode(&raw); err != nil {
		return batchError(err)
	}
	if string(raw) == "null" {
		return nil
	}
	return parse(name, raw)
}

// eachRow calls row for each element of the list that comes next, and returns their number.
func eachRow(dec *json.Decoder, row func(path string, raw []byte) error) (rows int, err error) {
	tok, err := dec.Token()
	if err != nil {
		return 0, batchError(err)
	}
	if tok == nil {
		return 0, nil
	}
	if tok != json.Delim('[') {
		return 0, badBody("connections", "must be a list", "")
	}
	var raw json.RawMessage // one buffer for all rows
	for ; dec.More(); rows++ {
		if rows == MaxRows {
			return 0, &record.InputError{
				Kind: record.InputInvalid, Field: "connections",
				Fault: fmt.Sprintf("has more than %d rows", MaxRows), Fix: "send the others in further requests",
			}
		}
		if err := dec.Decode(&raw); err != nil {
			return 0, batchError(err)
		}
		if err := row(RowPath(rows), raw); err != nil {
			return 0, err
		}
	}
	return rows, end(dec, ']')
}

// end reads the end of an object or a list. The decoder's More is false after a failed read,
// too, of which the next read may not tell.
func end(dec *json.Decoder, delim json.Delim) error {
	tok, err := dec.Token()
	if err == nil && tok != delim {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return batchError(err)
	}
	return nil
}

// batchError returns the error for a body that could not be decoded or read.
func batchError(err error) error {
	if _, ok := errors.AsType[*json.SyntaxError](err); ok || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return syntaxError(err)
	}
	return err
}
