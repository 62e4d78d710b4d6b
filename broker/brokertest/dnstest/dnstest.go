// Package dnstest has a name server for tests, whose answers can change.
package dnstest

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// A Server is a name server that knows every name.
type Server struct {
	conn    net.PacketConn
	address func(lookup int) netip.Addr
	lookups atomic.Int32
}

// Serve starts a server on conn, until the end of the test. address says which address a
// name has; the lookups, which are told apart by their queries for an IPv4 address, are
// counted from 1. Answers are good for no time at all.
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

// Lookups returns how many lookups there were.
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
		// It comes before or after the query for an IPv4 address, so which lookup it is part
		// of cannot be told.
		if address := s.address(s.Lookups() + 1); address.Is6() {
			return []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AAAAResource{AAAA: address.As16()}}}
		}
	}
	return nil
}
