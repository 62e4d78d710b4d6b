package vaultkv

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// The path of a connection is <application>/<consumer>/<unified_api>.<service_id>.
// Letters, digits, "-" and "_" stand for themselves; any other byte is encoded as "~" and
// two hexadecimal digits. An encoded part longer than maxSegment is split into several
// segments, each but the last ending in a lone "~". Vault's file storage turns each
// segment into a file name, encrypted: 96 bytes become 229, and file systems allow 255.
const (
	maxSegment = 96
	upperHex   = "0123456789ABCDEF"
)

var errForeignPath = errors.New("not the path of a connection")

// cleanPath checks the path of a mount, or a prefix, and trims the slashes around it.
func cleanPath(path string) (string, error) {
	path = strings.Trim(path, "/")
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." || strings.ContainsFunc(segment, func(r rune) bool {
			return r <= ' ' || r > '~' || strings.ContainsRune(`%?#\*+`, r)
		}) {
			return "", fmt.Errorf("%q is not a path like team-a/token-broker", path)
		}
	}
	return path, nil
}

func connectionPath(key record.Key) string {
	return strings.Join([]string{
		split(encode(key.Application)),
		split(encode(key.Consumer)),
		split(encode(key.Connector.UnifiedAPI) + "." + encode(key.Connector.ServiceID)),
	}, "/")
}

func encode(part string) string {
	var b strings.Builder
	for i := range len(part) {
		if c := part[i]; isLiteral(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'~', upperHex[c>>4], upperHex[c&15]})
		}
	}
	return b.String()
}

func isLiteral(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// split divides an encoded part into segments, never inside an escape.
func split(encoded string) string {
	var b strings.Builder
	for len(encoded) > maxSegment {
		cut := maxSegment - 1
		if i := strings.LastIndexByte(encoded[:cut], '~'); i > cut-3 {
			cut = i
		}
		b.WriteString(encoded[:cut])
		b.WriteString("~/")
		encoded = encoded[cut:]
	}
	b.WriteString(encoded)
	return b.String()
}

func decode(encoded string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(encoded); i++ {
		c := encoded[i]
		if c != '~' {
			b.WriteByte(c)
			continue
		}
		if i+2 >= len(encoded) {
			return "", errForeignPath
		}
		octet, err := hex.DecodeString(encoded[i+1 : i+3])
		if err != nil {
			return "", errForeignPath
		}
		b.Write(octet)
		i += 2
	}
	return b.String(), nil
}

// parsePath is the inverse of connectionPath. Any other path is an error.
func parsePath(path string) (record.Key, error) {
	var parts []string
	part := ""
	for segment := range strings.SplitSeq(path, "/") {
		if chunk, more := strings.CutSuffix(segment, "~"); more {
			part += chunk
			continue
		}
		parts = append(parts, part+segment)
		part = ""
	}
	if len(parts) != 3 || part != "" {
		return record.Key{}, errForeignPath
	}
	unifiedAPI, serviceID, _ := strings.Cut(parts[2], ".")
	var err error
	for _, p := range []*string{&parts[0], &parts[1], &unifiedAPI, &serviceID} {
		if *p, err = decode(*p); err != nil {
			return record.Key{}, err
		}
	}
	if parts[0] == "" || parts[1] == "" || unifiedAPI == "" || serviceID == "" {
		return record.Key{}, errForeignPath
	}
	key := record.Key{
		Application: parts[0], Consumer: parts[1],
		Connector: connector.ID{UnifiedAPI: unifiedAPI, ServiceID: serviceID},
	}
	if connectionPath(key) != path {
		return record.Key{}, errForeignPath
	}
	return key, nil
}
