package importing

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// encrypt returns text encrypted for the recipients.
func encrypt(t *testing.T, armored bool, text string, recipients ...age.Recipient) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.Writer = &out
	if armored {
		w = armor.NewWriter(&out)
	}
	plain, err := age.Encrypt(w, recipients...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(plain, text); err != nil {
		t.Fatal(err)
	}
	if err := plain.Close(); err != nil {
		t.Fatal(err)
	}
	if armored {
		if err := w.(io.Closer).Close(); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

func TestAFileThatAgeHasEncryptedIsRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	phrase, err := age.NewScryptRecipient("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	phrase.SetWorkFactor(10)
	identityFile := file("identity", []byte("# created today\n"+identity.String()+"\n"))
	phraseFile := file("phrase", []byte("correct horse\n"))
	text := row(1) + "\n" + row(2) + "\n"
	for name, o := range map[string]Options{
		"identity":   {Path: file("a.age", encrypt(t, false, text, identity.Recipient())), IdentityFile: identityFile},
		"armored":    {Path: file("b.age", encrypt(t, true, text, identity.Recipient())), IdentityFile: identityFile},
		"passphrase": {Path: file("c.age", encrypt(t, false, text, phrase)), PassphraseFile: phraseFile},
	} {
		f := &fakeBroker{}
		if _, _, err := run(t.Context(), t, f, o); err != nil || len(f.stored) != 2 {
			t.Errorf("%s: got %v, %d connections", name, err, len(f.stored))
		}
	}
	sealed := file("d.age", encrypt(t, false, text, identity.Recipient()))
	for want, o := range map[string]Options{
		"give --identity or --passphrase-file": {Path: sealed},
		"cannot be decrypted":                  {Path: sealed, PassphraseFile: phraseFile},
		"has no age identities":                {Path: sealed, IdentityFile: phraseFile},
	} {
		if _, _, err := run(t.Context(), t, &fakeBroker{}, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
