package oauthserver

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
)

// A Loss is a way not to deliver an answer whole.
type Loss int

// The ways in which answers get lost.
const (
	Dropped  Loss = iota // the connection is closed in place of an answer
	Hung                 // there is no answer for as long as the client waits
	CutShort             // the connection is closed in the middle of the answer
)

// Lose loses all answers. So many of the requests are carried out all the same: each
// of those costs a client its grant, unless it never sends that refresh token again.
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
