// Send one event to the relay over HTTP.
import java.io.IOException
import java.net.HttpURLConnection
import java.net.URL
import java.util.UUID

/** Return whether the event is stored. Not for the main thread, because it blocks. */
fun send(eventType: String, context: String = "{}"): Boolean {
    val body = """{"event_id": "${UUID.randomUUID()}", "event_type": "$eventType", "tenant_id": 2, "context": $context,
        "source": {"platform": "tv", "device_id": "A1B2C3D4-E5F6-7890-ABCD-EF1234567890"}}"""
    for (attempt in 0..5) {
        try {
            val relay = URL("http://127.0.0.1:8080/v1/events").openConnection() as HttpURLConnection
            relay.connectTimeout = 10_000
            relay.readTimeout = 10_000
            relay.doOutput = true
            relay.setRequestProperty("Content-Type", "application/json")
            relay.outputStream.use { it.write(body.toByteArray()) }
            val status = relay.responseCode
            relay.disconnect()
            if (status == 202) return true
            if (status != 408 && status != 503) return false
        } catch (unreachable: IOException) {
            // The loop sends the event again.
        }
        Thread.sleep(1000L shl attempt)
    }
    return false
}

fun main() = check(send("kotlin.sent", """{"answer": 42}"""))
