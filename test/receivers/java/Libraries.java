import com.standardwebhooks.Webhook;
import com.standardwebhooks.exceptions.WebhookVerificationException;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Gives stored requests to the official library of Standard Webhooks, and tells what it says of each.
 *
 * <p>Standard input, a line for each: the secret, webhook-id, webhook-timestamp, webhook-signature and the body in base64, with
 * tabs between. Standard output, a line for each: "accepted", or "refused" and why.
 */
public final class Libraries {
    public static void main(String[] args) throws IOException {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = in.readLine()) != null; ) {
            String[] fields = line.split("\t", -1);
            Map<String, List<String>> headers = new HashMap<>();
            String[] names = {"webhook-id", "webhook-timestamp", "webhook-signature"};
            for (int i = 0; i < names.length; i++) headers.put(names[i], List.of(fields[i + 1]));
            String body = new String(Base64.getDecoder().decode(fields[4]), StandardCharsets.UTF_8);
            try {
                new Webhook(fields[0]).verify(body, java.net.http.HttpHeaders.of(headers, (name, value) -> true));
                System.out.println("accepted");
            } catch (WebhookVerificationException e) {
                System.out.println("refused: " + e.getMessage());
            }
        }
    }
}
