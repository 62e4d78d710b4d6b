package main

import (
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// serveSecure runs the upstream with HTTP/2 and TLS. It answers as [reply] does, and refuses
// HTTP/1.
func serveSecure(listener net.Listener, certificate string) error {
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(answerSecure)}
	err := server.ServeTLS(listener, filepath.Join(certificate, certificateName), filepath.Join(certificate, keyName))
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func answerSecure(w http.ResponseWriter, r *http.Request) {
	credential, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case r.ProtoMajor != 2:
		w.WriteHeader(http.StatusHTTPVersionNotSupported)
		return
	case !found:
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	size, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		return
	}
	start := document(credential)
	if r.URL.Path == credentialPath {
		start = credential
	}
	w.Header().Set("Content-Type", "application/json")
	length := max(int(size), len(start))
	w.Header().Set("Content-Length", strconv.Itoa(length))
	if _, err := io.WriteString(w, start); err == nil {
		_ = pad(w, length-len(start))
	}
}
