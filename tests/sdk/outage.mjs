// During an outage the SDK retries by itself, as the broker's responses tell it to. The test makes
// the token endpoint fail until the SDK has got such a response.
import assert from "node:assert/strict";
import { client, given, run } from "./client.mjs";

const acme = { unifiedApi: "crm", serviceId: "acme" };

await run({
  async "a call during an outage succeeds after it"() {
    const { connections, validateConnection } = client().vault;
    await connections.imports({
      ...acme,
      connectionImportData: {
        credentials: {
          accessToken: given.login.access_token,
          refreshToken: given.login.refresh_token,
          issuedAt: new Date(given.login.issued_at),
          expiresIn: 1,
        },
      },
    });
    const got = await validateConnection.state(acme);
    assert.equal(got.validateConnectionStateResponse.data.state, "callable");
  },
});
