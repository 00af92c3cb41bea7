// Send one event to the relay of the site over HTTP.
import Foundation

/// Return whether the event is stored.
func send(_ eventType: String, context: [String: Any] = [:]) async throws -> Bool {
    let source = ["platform": "tv", "device_id": "A1B2C3D4-E5F6-7890-ABCD-EF1234567890"]
    let event: [String: Any] = [
        "event_id": UUID().uuidString, "event_type": eventType, "tenant_id": 2, "source": source, "context": context,
    ]
    var request = URLRequest(url: URL(string: "http://relay.local:8080/v1/events")!, timeoutInterval: 10)
    request.httpMethod = "POST"
    request.setValue("application/json", forHTTPHeaderField: "Content-Type")
    request.httpBody = try JSONSerialization.data(withJSONObject: event)
    for attempt in 0..<6 {
        if let (_, response) = try? await URLSession.shared.data(for: request) {
            let status = (response as? HTTPURLResponse)?.statusCode ?? 0
            if status == 202 { return true }
            if status != 408 && status != 503 { return false }
        }
        try await Task.sleep(nanoseconds: 1_000_000_000 << UInt64(attempt))
    }
    return false
}
