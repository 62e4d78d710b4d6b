package exchange

import (
	"log"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
)

func TestStandardLogIsQuietedOnce(t *testing.T) {
	std := log.Writer()
	t.Cleanup(func() { log.SetOutput(std) })
	written := &brokertest.Log{}
	log.SetOutput(written)
	quietNetHTTP()
	quietNetHTTP()
	if w, ok := log.Writer().(quietWriter); !ok || isQuiet(w.Writer) {
		t.Errorf("got %T in front of %T", log.Writer(), w.Writer)
	}
	log.Print("something else")
	if !strings.Contains(written.String(), "something else") {
		t.Error("other lines are lost")
	}
}
