// While something is out of reach the SDK tries again by itself, as long as the broker
// says that this helps; the test makes the token endpoint fail until the SDK has seen it.
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
