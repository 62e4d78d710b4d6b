package tests

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
)

// canaries are parts of every secret in TestNoSecretIsEverShown.
var canaries = []string{
	brokertest.AccessCanary, brokertest.RefreshCanary, brokertest.ClientSecretCanary,
	brokertest.APIKeyCanary, brokertest.SettingCanary, brokertest.WebhookCanary,
}

// A canaryForm is a canary in some encoding.
type canaryForm struct{ canary, how, text string }

// canaryForms are the canaries in plain text, in hex, and in base64 at each of the three
// possible offsets.
var canaryForms = func() (forms []canaryForm) {
	for _, canary := range canaries {
		forms = append(forms, canaryForm{canary, "plain", strings.ToLower(canary)},
			canaryForm{canary, "hex", hex.EncodeToString([]byte(canary))})
		for offset := range 3 {
			encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", offset) + canary))
			// The characters at both ends depend on the bytes next to the canary.
			inner := encoded[(offset*8+5)/6 : len(encoded)-1]
			forms = append(forms, canaryForm{canary, fmt.Sprintf("base64 at %d", offset), strings.ToLower(inner)})
		}
	}
	return forms
}()

// findCanary describes the first canary in output, empty if there is none. It ignores case,
// even of base64: a match of that length is no coincidence.
func findCanary(output []byte) string {
	lower := bytes.ToLower(output)
	for _, form := range canaryForms {
		if i := bytes.Index(lower, []byte(form.text)); i >= 0 {
			return fmt.Sprintf("%s (%s): ...%s...", form.canary, form.how, output[max(0, i-200):min(len(output), i+200)])
		}
	}
	return ""
}

func wantNoCanary(t *testing.T, what string, output []byte) {
	t.Helper()
	if leak := findCanary(output); leak != "" {
		t.Errorf("%s contains a secret: %s", what, leak)
	}
}

// wantNoCanaryInFiles searches all files in a directory except those named, which are meant
// to contain secrets. It returns the files searched.
func wantNoCanaryInFiles(t *testing.T, dir string, but ...string) (searched []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || slices.Contains(but, path) {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		searched = append(searched, path)
		wantNoCanary(t, path, content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return searched
}

func TestCanariesAreFoundInEveryForm(t *testing.T) {
	t.Parallel()
	const secret = "prefix-" + brokertest.RefreshCanary + "-suffix"
	for what, text := range map[string]string{
		"plain":      secret,
		"upper case": strings.ToUpper(secret),
		"hex":        hex.EncodeToString([]byte(secret)),
		"base64":     base64.StdEncoding.EncodeToString([]byte(secret)),
		"base64 + 1": base64.StdEncoding.EncodeToString([]byte("1" + secret)),
		"base64 + 2": base64.URLEncoding.EncodeToString([]byte("12" + secret)),
		"basic":      "Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+secret)),
	} {
		if findCanary([]byte("some "+text+" text")) == "" {
			t.Errorf("%s: not found in %s", what, text)
		}
	}
	if leak := findCanary([]byte("no secret in here")); leak != "" {
		t.Errorf("found %s in a text without secrets", leak)
	}
}

// wantNoCanaryInAnswer checks the header and body of an answer, and returns it.
func wantNoCanaryInAnswer(t *testing.T, what string, got answer) answer {
	t.Helper()
	var header bytes.Buffer
	if err := http.Header.Write(got.header, &header); err != nil {
		t.Fatal(err)
	}
	wantNoCanary(t, what, append(header.Bytes(), got.body...))
	return got
}
