import com.sun.net.httpserver.Headers;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.MessageDigest;
import java.security.PublicKey;
import java.security.Signature;
import java.security.spec.X509EncodedKeySpec;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collections;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/**
 * A webhook receiver with Java's own libraries only (17 or later), to the recipe of each scheme:
 *
 * <pre>SCHEME=timestamp-hmac-256 CONFIG=folder java Receiver.java</pre>
 *
 * folder/keys holds the keys that it trusts, a file each: the secret, or the public key of a scheme that has one. It is read for
 * each request, so that a rotation is a file more and, after the overlap, a file less. folder/tolerance, where it is there, says
 * how many seconds a delivery may be old (300). EXTERNAL_URL is how senders reach it, where that is not what Host says; some
 * schemes sign the URL.
 *
 * <p>It listens on a free loopback port, prints "listening port" and answers 200 ok, 200 duplicate (it was handled before), 400
 * stale, 401 invalid. Unsigned or malformed requests are invalid.
 */
public final class Receiver {
    private static final int MAX_BODY = 9 << 20;
    private static final int MAX_REMEMBERED = 100_000;

    /** The request is unsigned, malformed or signed by somebody else. */
    private static final class Invalid extends Exception {
        private static final long serialVersionUID = 1;
    }

    /** What is signed. */
    private record Request(Headers headers, byte[] body, String url) {
        /** A header's one value; one that is there twice could be read in two ways. */
        String get(String name) throws Invalid {
            List<String> values = headers.get(name);
            if (values == null || values.size() != 1) throw new Invalid();
            return values.get(0);
        }
    }

    private interface Time {
        double of(Request r) throws Invalid;
    }

    private interface Good {
        boolean by(String key, Request r) throws Invalid, GeneralSecurityException;
    }

    /**
     * Says when a request was signed, in seconds, and whether a key's signature is good. Where the id is signed it names the
     * delivery; elsewhere the body does. A recipe without a time cannot tell a replay from a retry.
     */
    private record Recipe(boolean signedId, Time time, Good good) {}

    private static final Map<String, Recipe> RECIPES = new LinkedHashMap<>();

    static {
        Time standardTime = r -> number(r.get("webhook-timestamp"));
        RECIPES.put("standard", new Recipe(true, standardTime, (key, r) ->
            anyIs("v1," + base64(hmac(secretOf(key), standardContent(r))), r.get("webhook-signature").split(" ", -1))));
        RECIPES.put("standard-ed25519", new Recipe(true, standardTime, (key, r) -> {
            for (String item : r.get("webhook-signature").split(" ", -1)) {
                if (item.startsWith("v1a,") && ed25519(key, standardContent(r), unbase64(item.substring(4)))) return true;
            }
            return false;
        }));
        RECIPES.put("rfc9421", new Recipe(true, Receiver::created, Receiver::goodRfc9421));
        RECIPES.put("timestamp-hmac", new Recipe(false, r -> number(r.get("x-timestamp")), (key, r) ->
            same(hex(hmac(bytes(key), bytes(r.get("x-timestamp")), bytes("."), r.body)), r.get("x-signature"))));
        RECIPES.put("timestamp-hmac-256", new Recipe(false, r -> number(r.get("x-timestamp")) / 1000, (key, r) ->
            same("sha256=" + hex(hmac(bytes(key), bytes(r.get("x-timestamp")), bytes("."), r.body)), r.get("x-signature-256"))));
        RECIPES.put("rsa-sha256", new Recipe(false, r -> number(r.get("x-timestamp")), (key, r) -> {
            byte[] stamp = ByteBuffer.allocate(8).putLong((long) number(r.get("x-timestamp"))).array();
            String der = key.replaceAll("-----(BEGIN|END) PUBLIC KEY-----|\\s", "");
            PublicKey known = KeyFactory.getInstance("RSA").generatePublic(new X509EncodedKeySpec(unbase64(der)));
            return verifies("SHA256withRSA", known, unbase64(r.get("x-signature")), stamp, r.body);
        }));
        RECIPES.put("hubspot-v3", new Recipe(false, r -> number(r.get("x-hubspot-request-timestamp")) / 1000, (key, r) ->
            same(base64(hmac(bytes(key), bytes("POST" + r.url), r.body, bytes(r.get("x-hubspot-request-timestamp")))),
                r.get("x-hubspot-signature-v3"))));
        RECIPES.put("stripe", new Recipe(false, r -> number(stripeTime(r)), (key, r) ->
            anyIs("v1=" + hex(hmac(bytes(key), bytes(stripeTime(r) + "."), r.body)), r.get("stripe-signature").split(",", -1))));
        RECIPES.put("github", new Recipe(false, null, (key, r) ->
            same("sha256=" + hex(hmac(bytes(key), r.body)), r.get("x-hub-signature-256"))));
        RECIPES.put("shopify", new Recipe(false, null, (key, r) ->
            same(base64(hmac(bytes(key), r.body)), r.get("x-shopify-hmac-sha256"))));
        RECIPES.put("slack", new Recipe(false, r -> number(r.get("x-slack-request-timestamp")), (key, r) ->
            same("v0=" + hex(hmac(bytes(key), bytes("v0:" + r.get("x-slack-request-timestamp") + ":"), r.body)),
                r.get("x-slack-signature"))));
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.ISO_8859_1);
    }

    private static String hex(byte[] raw) {
        return HexFormat.of().formatHex(raw);
    }

    private static String base64(byte[] raw) {
        return Base64.getEncoder().encodeToString(raw);
    }

    private static byte[] unbase64(String text) throws Invalid {
        try {
            byte[] raw = Base64.getDecoder().decode(text);
            if (base64(raw).equals(text)) return raw;
        } catch (IllegalArgumentException e) {
            // no base64: falls through
        }
        throw new Invalid();
    }

    // Long.parseLong would also take "+1" and other scripts' digits.
    private static double number(String text) throws Invalid {
        if (!text.matches("[1-9][0-9]{0,13}")) throw new Invalid();
        return Long.parseLong(text);
    }

    private static byte[] hmac(byte[] key, byte[]... parts) throws GeneralSecurityException {
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(key, "HmacSHA256"));
        for (byte[] part : parts) mac.update(part);
        return mac.doFinal();
    }

    private static boolean same(String computed, String given) {
        return MessageDigest.isEqual(bytes(computed), bytes(given));
    }

    /** Looks for a signature in a list, as there is during a rotation: one good one is enough. */
    private static boolean anyIs(String computed, String[] items) {
        boolean found = false;
        for (String item : items) found |= same(computed, item);
        return found;
    }

    private static byte[] secretOf(String key) throws Invalid {
        return unbase64(key.replaceFirst("^whsec_", ""));
    }

    private static byte[] standardContent(Request r) throws Invalid {
        byte[] head = bytes(r.get("webhook-id") + "." + r.get("webhook-timestamp") + ".");
        return ByteBuffer.allocate(head.length + r.body.length).put(head).put(r.body).array();
    }

    private static boolean verifies(String algorithm, PublicKey key, byte[] signature, byte[]... parts) throws GeneralSecurityException {
        Signature verifier = Signature.getInstance(algorithm);
        verifier.initVerify(key);
        for (byte[] part : parts) verifier.update(part);
        try {
            return verifier.verify(signature);
        } catch (java.security.SignatureException e) {
            return false; // not even the form of one
        }
    }

    // A raw key of 32 bytes is the end of its SubjectPublicKeyInfo (RFC 8410), which begins like every other's.
    private static final byte[] ED25519_HEAD = HexFormat.of().parseHex("302a300506032b6570032100");

    private static boolean ed25519(String key, byte[] content, byte[] signature) throws Invalid, GeneralSecurityException {
        byte[] raw = unbase64(key.replaceFirst("^whpk_", ""));
        byte[] der = ByteBuffer.allocate(ED25519_HEAD.length + raw.length).put(ED25519_HEAD).put(raw).array();
        PublicKey known = KeyFactory.getInstance("Ed25519").generatePublic(new X509EncodedKeySpec(der));
        return verifies("Ed25519", known, signature, content);
    }

    private static String stripeTime(Request r) throws Invalid {
        List<String> times = new ArrayList<>();
        for (String item : r.get("stripe-signature").split(",", -1)) {
            if (item.startsWith("t=")) times.add(item.substring(2));
        }
        if (times.size() != 1) throw new Invalid();
        return times.get(0);
    }

    // The signatures of RFC 9421 in the form that Sealpost gives them: members of two dictionaries under the same labels.
    private static final Pattern INPUT = Pattern.compile(
        "([a-z-]+)=(\\(([^()]*)\\);created=([0-9]+);keyid=\"[0-9a-f]+\";nonce=\"[A-Za-z0-9_-]+\")(?:, |$)");
    private static final Pattern SIGNATURE = Pattern.compile("([a-z-]+)=:([A-Za-z0-9+/=]+):(?:, |$)");

    private static double created(Request r) throws Invalid {
        double at = Double.NaN;
        for (Matcher m = INPUT.matcher(r.get("signature-input")); m.find(); ) {
            at = Double.isNaN(at) ? number(m.group(4)) : Math.max(at, number(m.group(4)));
        }
        if (Double.isNaN(at)) throw new Invalid();
        return at;
    }

    private static boolean goodRfc9421(String key, Request r) throws Invalid, GeneralSecurityException {
        String digest = "sha-256=:" + base64(MessageDigest.getInstance("SHA-256").digest(r.body)) + ":";
        if (!same(digest, r.get("content-digest"))) return false;
        // What has to be covered is ours to say: a sender who covers less has signed less.
        Map<String, String> covered = new LinkedHashMap<>();
        covered.put("@method", "POST");
        covered.put("@target-uri", r.url);
        covered.put("content-digest", r.get("content-digest"));
        covered.put("webhook-id", r.get("webhook-id"));
        if (r.headers.containsKey("sealpost-chunk")) covered.put("sealpost-chunk", r.get("sealpost-chunk"));
        String names = covered.keySet().stream().map(name -> '"' + name + '"').collect(Collectors.joining(" "));
        String lines = covered.entrySet().stream().map(e -> '"' + e.getKey() + "\": " + e.getValue() + "\n").collect(Collectors.joining());
        Map<String, String> values = new HashMap<>();
        for (Matcher m = SIGNATURE.matcher(r.get("signature")); m.find(); ) values.put(m.group(1), m.group(2));
        for (Matcher m = INPUT.matcher(r.get("signature-input")); m.find(); ) {
            if (!m.group(3).equals(names) || !values.containsKey(m.group(1))) continue;
            byte[] base = bytes(lines + "\"@signature-params\": " + m.group(2));
            String value = values.get(m.group(1));
            if (key.startsWith("whsec_") ? same(base64(hmac(secretOf(key), base)), value) : ed25519(key, base, unbase64(value))) return true;
        }
        return false;
    }

    private final Recipe recipe;
    private final Path config;
    // What was handled. In production: a table with a unique key, in the transaction that handles the event.
    private final Map<String, Boolean> handled = Collections.synchronizedMap(new LinkedHashMap<>() {
        @Override
        protected boolean removeEldestEntry(Map.Entry<String, Boolean> eldest) {
            return size() > MAX_REMEMBERED;
        }
    });

    private Receiver(Recipe recipe, Path config) {
        this.recipe = recipe;
        this.config = config;
    }

    private List<String> keys() throws IOException {
        List<String> keys = new ArrayList<>();
        try (var files = Files.newDirectoryStream(config.resolve("keys"))) {
            for (Path file : files) keys.add(Files.readString(file).strip());
        }
        return keys;
    }

    private double tolerance() throws IOException {
        Path file = config.resolve("tolerance");
        return Files.exists(file) ? Double.parseDouble(Files.readString(file).strip()) : 300;
    }

    /** The status and the text of the answer. */
    private Map.Entry<Integer, String> answer(Request r) throws IOException, GeneralSecurityException {
        try {
            if (recipe.time != null && Math.abs(System.currentTimeMillis() / 1000.0 - recipe.time.of(r)) > tolerance()) {
                return Map.entry(400, "stale");
            }
            String id = recipe.signedId ? r.get("webhook-id") : hex(MessageDigest.getInstance("SHA-256").digest(r.body));
            for (String key : keys()) {
                if (recipe.good.by(key, r)) return Map.entry(200, handled.putIfAbsent(id, true) == null ? "ok" : "duplicate");
            }
        } catch (Invalid e) {
            // falls through
        }
        return Map.entry(401, "invalid");
    }

    private void serve(HttpExchange exchange) throws IOException {
        try (exchange) {
            // The bytes as they came: a body that was parsed and written again has another signature.
            byte[] body = exchange.getRequestBody().readNBytes(MAX_BODY + 1);
            String origin = System.getenv("EXTERNAL_URL");
            if (origin == null) origin = "http://" + exchange.getRequestHeaders().getFirst("host");
            Map.Entry<Integer, String> answer = body.length > MAX_BODY
                ? Map.entry(413, "too large")
                : answer(new Request(exchange.getRequestHeaders(), body, origin + exchange.getRequestURI()));
            byte[] text = bytes(answer.getValue());
            exchange.sendResponseHeaders(answer.getKey(), text.length);
            exchange.getResponseBody().write(text);
        } catch (GeneralSecurityException e) {
            throw new IOException(e); // a key that is none: the sender comes again
        }
    }

    public static void main(String[] args) throws IOException {
        Recipe recipe = RECIPES.get(System.getenv().getOrDefault("SCHEME", ""));
        String config = System.getenv("CONFIG");
        if (recipe == null || config == null) {
            System.err.println("usage: SCHEME=" + String.join("|", RECIPES.keySet()) + " CONFIG=folder java Receiver.java");
            System.exit(2);
        }
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        server.createContext("/", new Receiver(recipe, Path.of(config))::serve);
        server.setExecutor(Executors.newFixedThreadPool(8));
        server.start();
        System.out.println("listening " + server.getAddress().getPort());
    }
}
