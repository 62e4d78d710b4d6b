package sealed_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/sealed"
)

const plainText = "a row with secrets\n"

// encrypted returns plainText encrypted for the recipient.
func encrypted(t *testing.T, isArmored bool, recipient age.Recipient) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.Writer = &out
	if isArmored {
		w = armor.NewWriter(&out)
	}
	plain, err := age.Encrypt(w, recipient)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(plain, plainText); err != nil {
		t.Fatal(err)
	}
	if err := plain.Close(); err != nil {
		t.Fatal(err)
	}
	if armored, ok := w.(io.Closer); ok {
		if err := armored.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

func TestDecryptReadsWhatAgeHasEncrypted(t *testing.T) {
	t.Parallel()
	mine, other := newIdentity(t), newIdentity(t)
	phrase, err := age.NewScryptRecipient("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	phrase.SetWorkFactor(10)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	mineFile, otherFile := file("mine", "# created today\n"+mine.String()+"\n"), file("other", other.String()+"\n")
	right, wrong := file("right", "correct horse\n"), file("wrong", "incorrect horse\n")
	forMine, byPhrase := encrypted(t, false, mine.Recipient()), encrypted(t, false, phrase)
	for name, test := range map[string]struct {
		content []byte
		keys    sealed.Keys
		want    string // of the error; empty: plainText
	}{
		"plain":                  {[]byte(plainText), sealed.Keys{}, ""},
		"an identity":            {forMine, sealed.Keys{IdentityFile: mineFile}, ""},
		"armored":                {encrypted(t, true, mine.Recipient()), sealed.Keys{IdentityFile: mineFile}, ""},
		"a passphrase":           {byPhrase, sealed.Keys{PassphraseFile: right}, ""},
		"no key":                 {forMine, sealed.Keys{}, "rows.age is encrypted with age: give --identity or --passphrase-file"},
		"a wrong passphrase":     {byPhrase, sealed.Keys{PassphraseFile: wrong}, "rows.age cannot be decrypted: the passphrase in " + wrong + " is wrong"},
		"another identity":       {forMine, sealed.Keys{IdentityFile: otherFile}, "rows.age cannot be decrypted: it is encrypted for another key than that in " + otherFile},
		"not by a passphrase":    {forMine, sealed.Keys{PassphraseFile: right}, "rows.age cannot be decrypted: it is encrypted for a key pair: give --identity"},
		"not for an identity":    {byPhrase, sealed.Keys{IdentityFile: mineFile}, "rows.age cannot be decrypted: it is encrypted with a passphrase: give --passphrase-file"},
		"not an identity's file": {forMine, sealed.Keys{IdentityFile: right}, "--identity: " + right + " has no age identities, such as age-keygen writes"},
	} {
		in, err := test.keys.Decrypt(bufio.NewReader(bytes.NewReader(test.content)), "rows.age")
		if test.want != "" {
			if err == nil || err.Error() != test.want {
				t.Errorf("%s: got %v, want %s", name, err, test.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := io.ReadAll(in); err != nil || string(got) != plainText {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	none := sealed.Keys{PassphraseFile: filepath.Join(dir, "none")}
	if _, err := none.Decrypt(bufio.NewReader(bytes.NewReader(byPhrase)), "rows.age"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file of the passphrase: got %v", err)
	}
	if err := (sealed.Keys{IdentityFile: mineFile, PassphraseFile: right}).Validate(); err == nil {
		t.Error("two keys are accepted")
	}
}

func newIdentity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestOpenWarnsOfFilesThatOthersCanRead(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("files have no modes here")
	}
	path := filepath.Join(t.TempDir(), "rows")
	for mode, want := range map[os.FileMode]string{0o600: "", 0o640: "", 0o644: "chmod 600"} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		var warnings strings.Builder
		file, _, err := sealed.Open(path, &warnings)
		if err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
		if got := warnings.String(); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("mode %v: got %q, want %q", mode, got, want)
		}
	}
	if _, _, err := sealed.Open(filepath.Dir(path), io.Discard); err == nil || !strings.HasSuffix(err.Error(), "is a directory, not a file") {
		t.Errorf("a directory: %v", err)
	}
}
