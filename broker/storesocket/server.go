package storesocket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// headerTimeout bounds how long a peer takes to send the header of a request.
const headerTimeout = 10 * time.Second

// A Server serves a store until it is closed.
type Server struct {
	path   string
	server *http.Server
	done   chan struct{}
}

// Serve serves a store at the socket in dir, whose files the caller has locked: a socket that is
// there was left behind. Errors: [ErrUnsafe], or an error of the system.
func Serve(dir string, store record.Store, logger *slog.Logger) (*Server, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, Name)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := listen(path)
	if err != nil {
		return nil, err
	}
	// Until now only the directory has protected it.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	s := &Server{path: path, done: make(chan struct{}), server: &http.Server{
		Handler: newHandler(store), ReadHeaderTimeout: headerTimeout,
		ErrorLog: log.New(io.Discard, "", 0), // of peers that went away
	}}
	go func() {
		defer close(s.done)
		if err := s.server.Serve(&ownerListener{listener, logger}); !errors.Is(err, http.ErrServerClosed) {
			logger.LogAttrs(context.Background(), slog.LevelWarn, "the store is no longer served to commands of the operator", slog.String("error", err.Error()))
		}
	}()
	return s, nil
}

// Close ends requests in progress and removes the socket.
func (s *Server) Close() error {
	err := s.server.Close()
	<-s.done
	if removed := os.Remove(s.path); !errors.Is(removed, os.ErrNotExist) {
		err = errors.Join(err, removed)
	}
	return err
}

// An ownerListener accepts connections of this process's user and of root.
type ownerListener struct {
	net.Listener
	logger *slog.Logger
}

// Accept implements [net.Listener].
func (l *ownerListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, known, err := peer(conn)
		if err == nil && (!known || uid == os.Geteuid() || uid == 0) {
			return conn, nil
		}
		l.logger.LogAttrs(context.Background(), slog.LevelWarn, "another user has tried to use the store's socket", slog.Int("uid", uid))
		_ = conn.Close()
	}
}

// A handler serves the operations.
type handler struct{ store record.Store }

func newHandler(store record.Store) http.Handler {
	h := &handler{store}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pathLoad, h.serve(h.load))
	mux.HandleFunc("POST "+pathSave, h.serve(h.save))
	mux.HandleFunc("POST "+pathCheck, h.serve(h.check))
	mux.HandleFunc("POST "+pathList, h.list)
	return mux
}

var errBadRequest = errors.New("the request is not one of this program")

func readMessage(r *http.Request) (*message, error) {
	m := &message{}
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxMessage)).Decode(m); err != nil || m.Key == nil {
		return nil, errBadRequest
	}
	return m, nil
}

// serve answers a request with the result of an operation.
func (h *handler) serve(operation func(context.Context, *message) (message, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		m, err := readMessage(r)
		var answer message
		if err == nil {
			answer, err = operation(r.Context(), m)
		}
		if err != nil {
			answer.Error = err.Error() // no error of a store quotes a record
		}
		w.WriteHeader(statusOf(err))
		_ = json.NewEncoder(w).Encode(answer) // the peer is gone
	}
}

// statuses are the errors of a store that a peer tells apart.
var statuses = []struct {
	err    error
	status int
}{
	{errBadRequest, http.StatusBadRequest},
	{record.ErrNotFound, http.StatusNotFound},
	{record.ErrConflict, http.StatusConflict},
	{record.ErrRecordTooLarge, http.StatusRequestEntityTooLarge},
}

func statusOf(err error) int {
	if err == nil {
		return http.StatusOK
	}
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			return s.status
		}
	}
	return http.StatusServiceUnavailable
}

func (h *handler) load(ctx context.Context, m *message) (message, error) {
	rec, rev, err := h.store.Load(ctx, m.Key.key())
	if err != nil {
		return message{}, err
	}
	encoded, err := record.Encode(rec)
	return message{Revision: rev, Record: encoded}, err
}

func (h *handler) save(ctx context.Context, m *message) (message, error) {
	rec, err := record.Decode(m.Key.key(), m.Record)
	if err != nil {
		return message{}, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	rev, err := h.store.Save(ctx, rec, m.Revision)
	return message{Revision: rev}, err
}

func (h *handler) check(ctx context.Context, _ *message) (message, error) {
	if checked, ok := h.store.(record.CheckedStore); ok {
		return message{}, checked.Check(ctx)
	}
	return message{}, nil
}

// list answers with a message for each key. An error is the last one, or the end is.
func (h *handler) list(w http.ResponseWriter, r *http.Request) {
	m, err := readMessage(r)
	if err != nil {
		w.WriteHeader(statusOf(err))
		return
	}
	enc := json.NewEncoder(w)
	for key, err := range h.store.List(r.Context(), m.Key.Application, m.Key.Consumer) {
		if err != nil {
			_ = enc.Encode(message{Error: err.Error()}) // the peer is gone
			return
		}
		named := newWireKey(key)
		if enc.Encode(message{Key: &named}) != nil {
			return
		}
	}
	_ = enc.Encode(message{End: true})
}
