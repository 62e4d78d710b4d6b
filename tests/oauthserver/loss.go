package oauthserver

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
)

// A Loss is a way to lose a response, or part of it.
type Loss int

// The ways to lose a response.
const (
	Dropped  Loss = iota // the connection is closed without a response
	Hung                 // there is no response for as long as the client waits
	CutShort             // the connection is closed in the middle of the response
)

// Lose returns a hook that loses all responses. It carries out the first carriedOut requests:
// for each of those, sending the refresh token again revokes the grant.
func Lose(loss Loss, carriedOut int) Hook {
	var left atomic.Int64
	left.Store(int64(carriedOut))
	return func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		answer := httptest.NewRecorder()
		if left.Add(-1) >= 0 {
			server.ServeHTTP(answer, r)
		}
		switch loss {
		case Hung:
			<-r.Context().Done()
			return
		case CutShort:
			body := answer.Body.Bytes()
			maps.Copy(w.Header(), answer.Header())
			w.Header().Set("Content-Length", strconv.Itoa(len(body)+1))
			w.WriteHeader(answer.Code)
			_, _ = w.Write(body[:len(body)/2])
			_ = http.NewResponseController(w).Flush()
		}
		panic(http.ErrAbortHandler)
	}
}
