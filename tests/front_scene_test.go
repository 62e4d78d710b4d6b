package tests

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"testing"
)

// A front is a reverse proxy in front of the API. It checks each exchange against
// docs/openapi.yaml and records its status.
type front struct {
	url string

	mu    sync.Mutex
	calls map[string][]int // guarded by mu: statuses, by operationId
}

// startFront starts a front that runs until the test ends.
func startFront(t *testing.T, p *process) *front {
	t.Helper()
	document, err := theContract()
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(p.apiURL(""))
	if err != nil {
		t.Fatal(err)
	}
	f := &front{calls: make(map[string][]int)}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: client.Transport,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("reading the client's request: %v", err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		recorder := httptest.NewRecorder()
		proxy.ServeHTTP(recorder, r)
		got := answer{recorder.Code, recorder.Header(), recorder.Body.Bytes()}
		if err := document.check(r, body, got); err != nil {
			t.Error(err)
		}
		f.note(document, r, body, got.status)
		maps.Copy(w.Header(), got.header)
		w.WriteHeader(got.status)
		_, _ = w.Write(got.body)
	}))
	t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

// note records the status of a response, by operation.
func (f *front) note(document *contract, r *http.Request, body []byte, status int) {
	name := r.Method + " " + r.URL.Path
	if input, err := document.request(r, body); err == nil {
		name = input.Route.Operation.OperationID
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[name] = append(f.calls[name], status)
}

// statuses returns the statuses of an operation's responses.
func (f *front) statuses(operation string) []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls[operation])
}

// hasAnswered reports whether a response of an operation had a status of the class: 2 stands
// for 200 to 299.
func (f *front) hasAnswered(operation string, class int) bool {
	return slices.ContainsFunc(f.statuses(operation), func(status int) bool { return status/100 == class })
}

// wantCalled checks that each operation has succeeded and was refused, at least once each.
func (f *front) wantCalled(t *testing.T, operations ...string) {
	t.Helper()
	for _, operation := range operations {
		if !f.hasAnswered(operation, 2) || !f.hasAnswered(operation, 4) {
			t.Errorf("%s was answered with %v, want a success and a refusal", operation, f.statuses(operation))
		}
	}
}

// wantNoRetries checks that no operation was answered with a status that makes the SDK retry,
// which it does for up to fifteen minutes.
func (f *front) wantNoRetries(t *testing.T, operations ...string) {
	t.Helper()
	for _, operation := range operations {
		if got := f.statuses(operation); slices.ContainsFunc(got, func(status int) bool { return status == http.StatusRequestTimeout || status >= 500 }) {
			t.Errorf("%s was answered with %v: the SDK retries after 408 and 5xx", operation, got)
		}
	}
}
