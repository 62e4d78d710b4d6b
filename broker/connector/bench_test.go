package connector

import "testing"

// What each call through the sidecar asks of a definition.

func BenchmarkAllowsHost(b *testing.B) {
	templated := Definition{ID: ID{"crm", "zen"}, AuthType: None, BaseURL: "https://{sub}.zen.test/v1", Settings: []Setting{{Name: "sub"}}}
	for name, d := range map[string]Definition{"literal": acme(), "templated": templated} {
		d = d.WithDefaults()
		host := map[string]string{"literal": "files.acme.test", "templated": "mine.zen.test"}[name]
		settings := map[string]any{"sub": "mine"}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := d.AllowsHost("https", host, settings); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkInjections(b *testing.B) {
	d := acme()
	d = d.WithDefaults()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Injections(nil, "t0ken"); err != nil {
			b.Fatal(err)
		}
	}
}
