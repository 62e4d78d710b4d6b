// Package dnstest provides a name server for tests whose answers can change.
package dnstest

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// A Server is a name server that answers for every name.
type Server struct {
	conn    net.PacketConn
	address func(lookup int) netip.Addr
	lookups atomic.Int32
}

// Serve starts a server on conn that runs until the test ends. address returns the address for
// a lookup. Lookups are counted from 1, by their queries for an IPv4 address. Answers have a
// TTL of 0.
func Serve(t testing.TB, conn net.PacketConn, address func(lookup int) netip.Addr) *Server {
	s := &Server{conn: conn, address: address}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serve()
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return s
}

// Lookups returns the number of lookups so far.
func (s *Server) Lookups() int { return int(s.lookups.Load()) }

func (s *Server) serve() {
	buf := make([]byte, 512)
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var query dnsmessage.Message
		if query.Unpack(buf[:n]) != nil || len(query.Questions) != 1 {
			continue
		}
		response := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: query.ID, Response: true, Authoritative: true},
			Questions: query.Questions,
			Answers:   s.answers(query.Questions[0]),
		}
		if packed, err := response.Pack(); err == nil {
			_, _ = s.conn.WriteTo(packed, from)
		}
	}
}

func (s *Server) answers(question dnsmessage.Question) []dnsmessage.Resource {
	header := dnsmessage.ResourceHeader{Name: question.Name, Type: question.Type, Class: question.Class}
	switch question.Type {
	case dnsmessage.TypeA:
		if address := s.address(int(s.lookups.Add(1))); address.Is4() {
			return []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AResource{A: address.As4()}}}
		}
	case dnsmessage.TypeAAAA:
		// This query comes before or after the one for an IPv4 address, so the number of its
		// lookup is a guess.
		if address := s.address(s.Lookups() + 1); address.Is6() {
			return []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AAAAResource{AAAA: address.As16()}}}
		}
	}
	return nil
}
