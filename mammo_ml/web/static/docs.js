// The REST interface, shown by Swagger UI from this server's own description of it.
import { authorization } from "./api.js";

window.SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  validatorUrl: null,
  requestInterceptor: (request) => {
    Object.assign(request.headers, authorization());
    return request;
  },
});
