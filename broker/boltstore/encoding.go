package boltstore

import (
	"bytes"
	"encoding/binary"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// The encoding of a [record.Key]: its four parts in order, each ended by 00 01, with 00 in
// a part written as 00 FF. No encoded part is a prefix of another, so one prefix selects
// exactly the keys of one consumer.
const (
	escape     = 0x00
	terminator = 0x01
	escaped    = 0xff
)

const errMalformedKey = contradiction("a key is malformed")

func encodeKey(key record.Key) []byte {
	b := appendPart(nil, key.Application)
	b = appendPart(b, key.Consumer)
	b = appendPart(b, key.Connector.UnifiedAPI)
	return appendPart(b, key.Connector.ServiceID)
}

// encodePrefix returns the prefix of all keys of a consumer; of an application if consumer
// is empty; of the whole store if application is empty too.
func encodePrefix(application, consumer string) []byte {
	if application == "" {
		return nil
	}
	b := appendPart(nil, application)
	if consumer != "" {
		b = appendPart(b, consumer)
	}
	return b
}

func appendPart(b []byte, part string) []byte {
	for i := range len(part) {
		b = append(b, part[i])
		if part[i] == escape {
			b = append(b, escaped)
		}
	}
	return append(b, escape, terminator)
}

func decodeKey(b []byte) (record.Key, error) {
	var parts [4]string
	for i := range parts {
		part, rest, err := cutPart(b)
		if err != nil {
			return record.Key{}, err
		}
		parts[i], b = part, rest
	}
	if len(b) != 0 {
		return record.Key{}, errMalformedKey
	}
	return record.Key{
		Application: parts[0], Consumer: parts[1],
		Connector: connector.ID{UnifiedAPI: parts[2], ServiceID: parts[3]},
	}, nil
}

func cutPart(b []byte) (part string, rest []byte, err error) {
	var out []byte
	for {
		i := bytes.IndexByte(b, escape)
		if i < 0 || i+1 == len(b) {
			return "", nil, errMalformedKey
		}
		out = append(out, b[:i]...)
		next := b[i+1]
		b = b[i+2:]
		switch next {
		case terminator:
			return string(out), b, nil
		case escaped:
			out = append(out, escape)
		default:
			return "", nil, errMalformedKey
		}
	}
}

// associatedData binds a ciphertext to its connection and revision.
func associatedData(storeKey []byte, rev record.Revision) []byte {
	ad := append([]byte("token-broker/embedded/record\x00"), encodeRevision(rev)...)
	return append(ad, storeKey...)
}

func encodeRevision(rev record.Revision) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(rev))
}

// decodeRevision returns 0 for nil, when there is no record.
func decodeRevision(b []byte) (record.Revision, error) {
	if b == nil {
		return 0, nil
	}
	if len(b) != 8 {
		return 0, contradiction("a revision is malformed")
	}
	return record.Revision(binary.BigEndian.Uint64(b)), nil
}
